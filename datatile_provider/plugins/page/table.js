// The table of uploads and waits.

import { element, link } from "./dom.js";
import { bytes, duration, NOTHING, number, time } from "./format.js";
import { STATES } from "./rows.js";

const ICONS = { busy: "◔", ask: "?", good: "✓", bad: "✕", off: "○" };

function place(row) {
  const { dag_id: dag, dag_run_id: run, task_id: task, map_index: index } = row.task;
  const name = index < 0 ? task : `${task} [${index}]`;
  return element("div", { class: "place" },
    link(row.pages.dag, dag, { title: `DAG ${dag}` }),
    link(row.pages.task, name, { title: `Task ${name}: its log`, label: `${name}: log of the task` }),
    link(row.pages.run, run, { title: `Run ${run}` }));
}

function state(row) {
  const { words, tone } = STATES[row.state];
  return element("span", { class: `state ${tone}` }, element("span", { "aria-hidden": "true" }, ICONS[tone]), ` ${words}`);
}

function job(row) {
  if (!row.job) return NOTHING;
  return row.jobUrl ? link(row.jobUrl, row.job, { blank: true, label: `${row.job}: the job in DATATILE` }) : row.job;
}

function attempts(row) {
  const tries = row.task.try_number > 1 ? `try ${row.task.try_number}` : "";
  return [row.attempts ? number(row.attempts) : "", tries].filter(Boolean).join(", ") || NOTHING;
}

const COLUMNS = [
  { name: "when", title: "When", show: (row) => time(row.when) },
  { name: "name", title: "DAG, task, run", show: place },
  { name: "action", title: "Action", show: (row) => (row.kind === "wait" ? `wait${row.action && ` (${row.action})`}` : row.action) },
  { name: "state", title: "State", show: state },
  { name: "file", title: "File", show: (row) => row.file, wrap: true },
  { name: "size", title: "Size", show: (row) => bytes(row.size ?? NaN), number: true },
  { name: "database", title: "Database", show: (row) => row.database, code: true },
  { name: "rows", title: "Rows", show: (row) => number(row.rows ?? NaN), number: true },
  { name: "sending", title: "Sending", show: (row) => duration(row.sending ?? NaN), number: true },
  { name: "processing", title: "Processing", show: (row) => duration(row.processing ?? NaN), number: true },
  { name: "attempts", title: "Attempts", show: attempts, number: true },
  { name: "job", title: "Job", show: job, code: true },
  { name: "message", title: "Last message", show: (row) => row.message, wrap: true, wide: true },
];

export const SORTABLE = COLUMNS.map((column) => column.name);

function cell(column, row) {
  const names = ["number", "code", "wrap", "wide"].filter((name) => column[name]).join(" ");
  const waiting = row.summary === undefined && ["rows", "size", "message"].includes(column.name);
  // The name of the column is shown beside the value where the screen is narrow.
  return element("td", { class: names || null, "data-title": column.title }, waiting ? "…" : column.show(row) || NOTHING);
}

function heading(column, sort, descending, onSort) {
  const active = column.name === sort;
  const arrow = active ? (descending ? " ▼" : " ▲") : "";
  const button = element("button", { type: "button", onclick: () => onSort(column.name) }, column.title,
    element("span", { "aria-hidden": "true" }, arrow));
  const order = active ? (descending ? "descending" : "ascending") : null;
  return element("th", { scope: "col", "aria-sort": order, class: column.number ? "number" : null }, button);
}

export function drawTable(table, rows, { sort, descending, onSort, empty }) {
  // A redraw must not take the focus away from a heading.
  const focused = table.contains(document.activeElement) ? document.activeElement : null;
  const path = focused?.closest("th, td");
  const at = path ? [path.parentElement.rowIndex, path.cellIndex, [...path.querySelectorAll("a, button")].indexOf(focused)] : null;
  const head = element("tr", {}, ...COLUMNS.map((column) => heading(column, sort, descending, onSort)));
  const body = rows.map((row) => element("tr", {}, ...COLUMNS.map((column) => cell(column, row))));
  const none = element("tr", {}, element("td", { colspan: COLUMNS.length, class: "empty" }, empty));
  table.replaceChildren(element("caption", {}, "Uploads and waits, with their state"), element("thead", {}, head),
    element("tbody", {}, ...(body.length ? body : [none])));
  if (at) table.rows[at[0]]?.cells[at[1]]?.querySelectorAll("a, button")[at[2]]?.focus();
}
