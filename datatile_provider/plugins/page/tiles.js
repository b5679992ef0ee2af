// The four tiles: what is happening, and what has happened today.

import { element } from "./dom.js";
import { bytes, number } from "./format.js";
import { IN_FLIGHT, join, keyOf, rowOf } from "./rows.js";

const RUNNING = ["running", "deferred", "up_for_reschedule", "queued"];
const MOST = 200;
const HOUR = 3600 * 1000;

// The uploads of some rows, and the waits whose upload is not among them. An upload and its wait are one load.
export function loads(rows) {
  const seen = new Set();
  return rows.filter((row) => {
    const id = row.job || row.key;
    return !seen.has(id) && seen.add(id);
  });
}

async function several(api, request) {
  const tasks = [];
  let total = 1;
  while (tasks.length < Math.min(total, MOST)) {
    const found = await api.tasks({ ...request, offset: tasks.length });
    total = found.total;
    if (!found.tasks.length) break;
    tasks.push(...found.tasks);
  }
  return { tasks, total };
}

async function rowsOf(api, tasks, asking) {
  const known = new Map();
  await api.summaries(tasks, (task, summary) => known.set(keyOf(task), summary));
  return join(tasks.map((task) => rowOf(task, known.get(keyOf(task)), asking.has(keyOf(task)))));
}

// What the tiles show. A wait and its upload count once.
export async function measure(api, asking, now = new Date()) {
  const midnight = new Date(now);
  midnight.setHours(0, 0, 0, 0);
  const [running, failed, done] = await Promise.all([
    several(api, { states: RUNNING }),
    several(api, { states: ["failed"], endedAfter: new Date(now - 24 * HOUR).toISOString() }),
    several(api, { states: ["success"], endedAfter: midnight.toISOString() }),
  ]);
  const groups = await Promise.all([running, failed, done].map(({ tasks }) => rowsOf(api, tasks, asking)));
  const [busy, bad, good] = groups.map((rows) => loads(uploadsFirst(rows)));
  const of = (rows, ...states) => rows.filter((row) => states.includes(row.state)).length;
  const sum = (name) => good.reduce((total, row) => total + (row[name] ?? 0), 0);
  return {
    sending: of(busy, "sending", "backoff"),
    processing: of(busy, "processing", "accepted"),
    queued: of(busy, "queued"),
    person: asking.size,
    failed: of(bad, "failed"),
    unknown: of(bad, "unknown"),
    rows: sum("rows"),
    bytes: sum("size"),
    inFlight: busy.filter((row) => IN_FLIGHT.includes(row.state)).length,
    partly: [running, failed, done].some(({ tasks, total }) => total > tasks.length),
  };
}

function uploadsFirst(rows) {
  return [...rows].sort((one, other) => (one.kind === "wait") - (other.kind === "wait"));
}

function tile(name, value, details, tone) {
  return element("div", { class: `tile ${tone}` }, element("dt", {}, name), element("dd", {}, value),
    element("dd", { class: "details" }, details));
}

export function drawTiles(list, found) {
  const newest = found.partly ? ` (of the newest ${MOST})` : "";
  list.replaceChildren(
    tile("In flight", number(found.inFlight),
      `${found.sending} sending, ${found.processing} processing, ${found.queued} queued`, found.inFlight ? "busy" : ""),
    tile("Waiting for a person", number(found.person), found.person ? "see the filter State" : "none",
      found.person ? "ask" : ""),
    tile("Failed in 24 hours", number(found.failed + found.unknown),
      `${found.failed} failed, ${found.unknown} with an unknown outcome`, found.failed + found.unknown ? "bad" : ""),
    tile("Loaded today", `${number(found.rows)} rows`, `${bytes(found.bytes)} sent${newest}`, ""),
  );
}
