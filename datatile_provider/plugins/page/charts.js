// Three charts in plain SVG, each with its data as a table.

import { element, shape } from "./dom.js";
import { duration, number, time } from "./format.js";

const WIDTH = 560;
const HEIGHT = 180;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 8, 12, 28];
const DATABASES = 4;
// A wave with less than this share of the usual rows is marked.
const FEW = 0.7;

export function median(values) {
  const ordered = [...values].sort((a, b) => a - b);
  const middle = Math.floor(ordered.length / 2);
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

// The waves of each database, oldest first, with a mark on those that have unusually few rows.
export function waves(rows) {
  const databases = new Map();
  for (const row of [...rows].sort((one, other) => one.when - other.when)) {
    if (row.kind !== "upload" || !row.database || row.rows === null || row.state !== "succeeded") continue;
    databases.set(row.database, [...(databases.get(row.database) ?? []), row]);
  }
  return [...databases].map(([database, uploads]) => ({
    database,
    uploads: uploads.map((row) => {
      // A reload has the rows of all waves, so it is compared with other reloads.
      const usual = median(uploads.filter((other) => (other.action === "reload") === (row.action === "reload")).map((other) => other.rows));
      return { row, few: row.rows < FEW * usual };
    }),
  })).sort((one, other) => other.uploads.length - one.uploads.length);
}

export function failures(rows) {
  const kinds = new Map();
  for (const row of rows) {
    if (row.kind === "wait" && rows.some((other) => other.kind === "upload" && other.job && other.job === row.job)) continue;
    if (!["failed", "unknown", "retry"].includes(row.state)) continue;
    const kind = row.code || "no summary";
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return [...kinds].sort((one, other) => other[1] - one[1]);
}

let ids = 0;

function figure(title, summary, drawing, headings, data) {
  ids += 1;
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-labelledby", `chart-${ids} chart-${ids}-text`);
  const cells = (tag, values, attributes = {}) => values.map((value) => element(tag, attributes, value));
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...cells("th", headings, { scope: "col" }))),
    element("tbody", {}, ...data.map((values) => element("tr", {}, ...cells("td", values)))));
  return element("figure", {},
    element("figcaption", {}, element("h3", { id: `chart-${ids}` }, title), element("p", { id: `chart-${ids}-text` }, summary)),
    drawing,
    element("details", {}, element("summary", {}, `The data of "${title}"`), table));
}

function canvas(height = HEIGHT) {
  return shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "chart" });
}

// A round number that is at least `most`, so that its half is round too.
export function ceiling(most) {
  const unit = 10 ** Math.floor(Math.log10(most || 1));
  return [1, 2, 4, 6, 8, 10].map((step) => step * unit).find((top) => top >= most) ?? 1;
}

function axis(drawing, top, words) {
  for (const value of [0, top / 2, top]) {
    const y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    drawing.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "grid" }));
    drawing.append(shape("text", { x: LEFT - 6, y: y + 4, class: "label end" }, words(value)));
  }
}

function ends(drawing, first, last) {
  const y = HEIGHT - 8;
  drawing.append(shape("text", { x: LEFT, y, class: "label" }, time(first).slice(0, 10)));
  if (last > first) drawing.append(shape("text", { x: WIDTH - RIGHT, y, class: "label end" }, time(last).slice(0, 10)));
}

function withHint(mark, text) {
  mark.append(shape("title", {}, text));
  return mark;
}

function wavesChart({ database, uploads }) {
  const drawing = canvas();
  const top = ceiling(Math.max(...uploads.map(({ row }) => row.rows), 1));
  axis(drawing, top, number);
  const step = (WIDTH - LEFT - RIGHT) / uploads.length;
  uploads.forEach(({ row, few }, index) => {
    const height = ((HEIGHT - TOP - BOTTOM) * row.rows) / top;
    const [x, y, width] = [LEFT + index * step + step * 0.15, HEIGHT - BOTTOM - height, Math.min(step * 0.7, 48)];
    const hint = `${time(row.when)} ${row.action} ${row.file}: ${number(row.rows)} rows`;
    drawing.append(withHint(shape("rect", { x, y, width, height, class: few ? "bar few" : "bar" }), hint));
    if (few) drawing.append(shape("text", { x: x + width / 2, y: y - 4, class: "label middle few" }, "few"));
  });
  ends(drawing, uploads[0].row.when, uploads.at(-1).row.when);
  const few = uploads.filter((upload) => upload.few);
  const summary = few.length
    ? `${few.length} of ${uploads.length} uploads with less than 70 % of the usual rows: ${few.map(({ row }) => row.file).join(", ")}.`
    : uploads.length > 1 ? `${uploads.length} uploads, none with unusually few rows.` : "One upload.";
  return figure(`Rows of each wave, database ${database}`, summary, drawing, ["When", "Action", "File", "Rows", "Few"],
    uploads.map(({ row, few: marked }) => [time(row.when), row.action, row.file, number(row.rows), marked ? "yes" : ""]));
}

function processingChart(rows) {
  const done = rows.filter((row) => row.kind === "upload" && row.processing !== null)
    .sort((one, other) => one.when - other.when);
  if (!done.length) return null;
  const drawing = canvas();
  const top = ceiling(Math.max(...done.map((row) => row.processing)));
  axis(drawing, top, duration);
  const [first, last] = [done[0].when, done.at(-1).when];
  const span = last - first || 1;
  for (const row of done) {
    const cx = LEFT + 6 + ((WIDTH - LEFT - RIGHT - 12) * (row.when - first)) / span;
    const cy = TOP + (HEIGHT - TOP - BOTTOM) * (1 - row.processing / top);
    const hint = `${time(row.when)} ${row.file}: ${duration(row.processing)}`;
    drawing.append(withHint(shape("circle", { cx, cy, r: 4, class: "dot" }), hint));
  }
  ends(drawing, first, last);
  const usual = duration(median(done.map((row) => row.processing)));
  const summary = `Half of ${done.length} jobs took less than ${usual}; the longest took ${duration(Math.max(...done.map((row) => row.processing)))}.`;
  return figure("Processing time", summary, drawing, ["When", "File", "Database", "Processing"],
    done.map((row) => [time(row.when), row.file, row.database, duration(row.processing)]));
}

function failuresChart(rows) {
  const kinds = failures(rows);
  if (!kinds.length) return null;
  const line = 26;
  const drawing = canvas(kinds.length * line + 8);
  const most = Math.max(...kinds.map(([, times]) => times));
  kinds.forEach(([kind, times], index) => {
    const y = index * line + 6;
    const width = ((WIDTH - 230) * times) / most;
    drawing.append(shape("text", { x: 172, y: y + 14, class: "label end" }, kind));
    drawing.append(shape("rect", { x: 180, y, width, height: line - 8, class: "bar few" }));
    drawing.append(shape("text", { x: 186 + width, y: y + 14, class: "label" }, number(times)));
  });
  return figure("Failures by kind", kinds.map(([kind, times]) => `${kind}: ${times}`).join(", "), drawing,
    ["Kind", "Tasks"], kinds.map(([kind, times]) => [kind, number(times)]));
}

export function drawCharts(place, note, rows) {
  const databases = waves(rows);
  const shown = databases.slice(0, DATABASES);
  const open = new Set([...place.querySelectorAll("details[open] summary")].map((summary) => summary.textContent));
  place.replaceChildren(...[...shown.map(wavesChart), processingChart(rows), failuresChart(rows)].filter(Boolean));
  for (const summary of place.querySelectorAll("summary")) summary.parentElement.open = open.has(summary.textContent);
  const more = databases.length - shown.length;
  const fewer = more > 0 ? ` ${more} more databases: choose one in the filter.` : "";
  const known = rows.filter((row) => row.summary !== undefined).length;
  note.textContent = place.children.length
    ? `Of the newest ${known} tasks that the filters let through.${fewer}`
    : "Nothing to draw: no upload with rows, and no failure.";
}
