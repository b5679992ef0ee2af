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
  // Whether the job has succeeded too is in the summary.
  if (row.summary === undefined && row.state === "accepted") return "…";
  const { words, tone } = STATES[row.state];
  const shown = row.state === "person"
    ? link(`${row.pages.task}/required_actions`, words, { title: "Answer the question" })
    : words;
  return element("span", { class: `state ${tone}` }, element("span", { "aria-hidden": "true" }, ICONS[tone]), "\u00a0", shown);
}

function job(row) {
  if (!row.job) return NOTHING;
  return row.jobUrl ? link(row.jobUrl, row.job, { blank: true, label: `${row.job}: the job in DATATILE` }) : row.job;
}

function attempts(row) {
  const tries = row.task.try_number > 1 ? `try ${row.task.try_number}` : "";
  return [row.attempts ? number(row.attempts) : "", tries].filter(Boolean).join(", ") || NOTHING;
}

function lines(...values) {
  return element("div", { class: "lines" }, ...values.filter(Boolean).map((value) => element("span", {}, value)));
}

// `sorts` are the fields that the heading sorts by, with their names.
const COLUMNS = [
  { sorts: { when: "When" }, show: (row) => lines(...time(row.when).split(" ")) },
  { sorts: { name: "DAG, task, run" }, show: place },
  { sorts: { action: "Action" }, show: (row) => (row.kind === "wait" ? `wait${row.action && ` (${row.action})`}` : row.action), narrow: true },
  { sorts: { state: "State" }, show: state, narrow: true },
  { sorts: { file: "File", size: "size" }, show: (row) => lines(row.file, row.size !== null && bytes(row.size)), wrap: true },
  { sorts: { database: "Database", job: "job" }, show: (row) => lines(row.database || NOTHING, job(row)), code: true },
  { sorts: { rows: "Rows" }, show: (row) => number(row.rows ?? NaN), number: true },
  { sorts: { sending: "Send" }, show: (row) => duration(row.sending ?? NaN), number: true },
  { sorts: { processing: "Process" }, show: (row) => duration(row.processing ?? NaN), number: true },
  { sorts: { attempts: "Attempts" }, show: attempts, number: true },
  { sorts: { message: "Last message" }, show: (row) => row.message, wrap: true, wide: true },
];

export const SORTABLE = COLUMNS.flatMap((column) => Object.keys(column.sorts));

const titleOf = (column) => Object.values(column.sorts).join(", ");

function cell(column, row) {
  const names = ["number", "code", "wrap", "wide", "narrow"].filter((name) => column[name]).join(" ");
  const waiting = row.summary === undefined && ("rows" in column.sorts || "message" in column.sorts);
  // The name of the column is shown beside the value where the screen is narrow.
  return element("td", { role: "cell", class: names || null, "data-title": titleOf(column) }, waiting ? "…" : column.show(row) || NOTHING);
}

function heading(column, sort, descending, onSort) {
  const arrow = descending ? " ▼" : " ▲";
  const buttons = Object.entries(column.sorts).map(([name, title]) => element("button", { type: "button", onclick: () => onSort(name) },
    title, element("span", { "aria-hidden": "true" }, name === sort ? arrow : "")));
  const order = sort in column.sorts ? (descending ? "descending" : "ascending") : null;
  return element("th", { role: "columnheader", scope: "col", "aria-sort": order, class: column.number ? "number" : null }, ...buttons);
}

// The roles are explicit, because a narrow screen shows the rows as blocks.
export function drawTable(table, rows, { sort, descending, onSort, empty }) {
  // A redraw must not take the focus away from a heading.
  const focused = table.contains(document.activeElement) ? document.activeElement : null;
  const path = focused?.closest("th, td");
  const at = path ? [path.parentElement.rowIndex, path.cellIndex, [...path.querySelectorAll("a, button")].indexOf(focused)] : null;
  const head = element("tr", { role: "row" }, ...COLUMNS.map((column) => heading(column, sort, descending, onSort)));
  const body = rows.map((row) => element("tr", { role: "row" }, ...COLUMNS.map((column) => cell(column, row))));
  const none = element("tr", { role: "row" }, element("td", { role: "cell", colspan: COLUMNS.length, class: "empty" }, empty));
  table.replaceChildren(element("caption", {}, "Uploads and waits, with their state"), element("thead", { role: "rowgroup" }, head),
    element("tbody", { role: "rowgroup" }, ...(body.length ? body : [none])));
  if (at) table.rows[at[0]]?.cells[at[1]]?.querySelectorAll("a, button")[at[2]]?.focus();
}
