// What a task instance and its summary mean: a row of the table. Pure.

import { pages } from "./api.js";
import { webAddress } from "./format.js";

// The states of a row: the words that are shown, and how they are coloured.
export const STATES = {
  queued: { words: "queued", tone: "busy" },
  sending: { words: "sending", tone: "busy" },
  backoff: { words: "waiting to send again", tone: "busy" },
  processing: { words: "processing", tone: "busy" },
  person: { words: "waiting for a person", tone: "ask" },
  accepted: { words: "accepted", tone: "good" },
  succeeded: { words: "succeeded", tone: "good" },
  retry: { words: "failed, will be retried", tone: "bad" },
  failed: { words: "failed", tone: "bad" },
  unknown: { words: "outcome unknown", tone: "bad" },
  skipped: { words: "not run", tone: "off" },
};
export const IN_FLIGHT = ["queued", "sending", "backoff", "processing"];

// The states of Airflow that a row's state may come from: the first filter, which the server applies.
export const AIRFLOW_STATES = {
  queued: ["queued", "scheduled", "restarting"],
  sending: ["running"],
  backoff: ["deferred"],
  processing: ["running", "deferred", "up_for_reschedule"],
  accepted: ["success"],
  succeeded: ["success"],
  retry: ["up_for_retry"],
  failed: ["failed"],
  unknown: ["failed"],
  skipped: ["skipped", "removed", "upstream_failed"],
};

const text = (value) => (typeof value === "string" ? value : value === null || value === undefined ? "" : String(value));
const count = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const date = (value) => (value ? new Date(value) : null);
const fileName = (path) => text(path).split("/").pop();

export function keyOf(task) {
  return JSON.stringify([task.dag_id, task.dag_run_id, task.task_id, task.map_index]);
}

function stateOf(task, kind, summary, asks) {
  const accepted = kind === "wait" || summary?.state === "accepted";
  switch (task.state) {
    case "awaiting_input":
      return "person";
    case "running":
      return accepted ? "processing" : "sending";
    case "deferred":
      if (asks) return "person";
      return accepted ? "processing" : "backoff";
    case "up_for_reschedule":
      return "processing";
    case "up_for_retry":
      return "retry";
    case "success":
      return summary?.state === "accepted" || (!summary && kind === "upload") ? "accepted" : "succeeded";
    case "failed":
      return summary?.state === "unknown" ? "unknown" : "failed";
    case "skipped":
    case "removed":
    case "upstream_failed":
      return "skipped";
    default:
      return "queued";
  }
}

// A row of a task instance. `summary` is null if there is none, undefined if it is not known yet.
export function rowOf(task, summary, asks = false) {
  const rendered = task.rendered_fields ?? {};
  const kind = summary?.kind ?? ("job_id" in rendered || task.operator?.includes("Sensor") ? "wait" : "upload");
  const target = text(summary?.target || rendered.target_hash);
  const action = text(summary?.action || rendered.action);
  const size = count(summary?.size);
  return {
    key: keyOf(task),
    task,
    summary,
    pages: pages(task),
    kind,
    when: date(task.start_date ?? task.run_after),
    ended: date(summary?.ended_at || task.end_date),
    acceptedAt: date(summary?.accepted_at),
    dag: task.dag_id,
    name: `${task.dag_id} ${task.dag_run_id} ${task.task_id}`,
    action,
    file: text(summary?.file) || fileName(rendered.dataset),
    size: size !== null && size >= 0 ? size : null,
    server: text(summary?.server),
    // The target of a create is a folder, and its database is not known before the job tells.
    database: text(summary?.database) || (action === "create" ? "" : target),
    job: text(summary?.job || rendered.job_id),
    jobUrl: webAddress(summary?.job_url) || webAddress(summary?.log_url),
    state: stateOf(task, kind, summary, asks),
    rows: count(summary?.rows),
    sending: count(summary?.send_seconds),
    processing: count(summary?.process_seconds),
    attempts: count(summary?.attempts),
    code: text(summary?.code),
    message: text(summary?.message),
  };
}

const sameJob = (one, other) =>
  one.job && one.job === other.job && (!one.server || !other.server || one.server === other.server);

// An upload and the wait for its job tell each other what only one of them knows. Changes the rows.
export function join(rows) {
  const uploads = new Map();
  for (const row of rows) if (row.kind === "upload" && row.job) uploads.set(row.job, row);
  for (const wait of rows) {
    const upload = wait.kind === "wait" ? uploads.get(wait.job) : undefined;
    if (!upload || !sameJob(upload, wait)) continue;
    for (const name of ["action", "file", "database"]) wait[name] ||= upload[name];
    wait.size ??= upload.size;
    upload.rows ??= wait.rows;
    upload.database ||= wait.database;
    const processed = wait.ended && upload.acceptedAt ? (wait.ended - upload.acceptedAt) / 1000 : wait.processing;
    if (["succeeded", "failed"].includes(wait.state)) upload.processing ??= processed;
    if (upload.state === "accepted" && STATES[wait.state] && wait.state !== "skipped") {
      upload.state = wait.state === "queued" || wait.state === "retry" ? "processing" : wait.state;
      upload.message ||= wait.message;
      upload.code ||= wait.code;
    }
  }
  return rows;
}

export function matches(row, { dag, database, state, text: wanted }) {
  if (dag && row.dag !== dag) return false;
  if (database && row.database !== database) return false;
  if (state === "in-flight" ? !IN_FLIGHT.includes(row.state) : state && row.state !== state) return false;
  const searched = [row.name, row.action, row.file, row.database, row.job, row.message, STATES[row.state].words];
  return !wanted || searched.join("\n").toLowerCase().includes(wanted.toLowerCase());
}

export function sorted(rows, name, descending) {
  const value = (row) => {
    const found = name === "state" ? STATES[row.state].words : row[name];
    return found instanceof Date ? found.getTime() : found;
  };
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    const [noA, noB] = [a === null || a === "" || a === undefined, b === null || b === "" || b === undefined];
    // What has no value comes last in both directions.
    if (noA || noB) return noA - noB;
    const order = typeof a === "string" ? a.localeCompare(b) : a - b;
    return descending ? -order : order;
  };
  return [...rows].sort(compare);
}
