// The page: loads what the filters ask for, draws it, and loads it again while something is in flight.

import { DEFAULTS, query, read, write } from "./address.js";
import { Api, ApiError } from "./api.js";
import { drawCharts } from "./charts.js";
import { element, follow } from "./dom.js";
import { time } from "./format.js";
import { AIRFLOW_STATES, IN_FLIGHT, join, keyOf, matches, rowOf, sorted, STATES } from "./rows.js";
import { drawTable, SORTABLE } from "./table.js";
import { followTheme } from "./theme.js";
import { drawTiles, measure } from "./tiles.js";

const SHOWN = 50;
const CHARTED = 100;
const [SOON, LATER] = [5000, 60000];
const TIMES = [["1", "24 hours"], ["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"], ["", "any time"]];
const CHOICES = [["", "all"], ["in-flight", "in flight"], ...Object.entries(STATES).map(([name, { words }]) => [name, words])];

const at = (id) => document.getElementById(id);
const api = new Api();
const filters = read();
const tasks = new Map();
const summaries = new Map();
let asking = new Set();
let total = 0;
let from = 0;
let generation = 0;
let timer = 0;
let learned = false;

if (!SORTABLE.includes(filters.sort)) filters.sort = DEFAULTS.sort;

function rows() {
  const all = [...tasks.values()].map((task) => rowOf(task, summaries.get(keyOf(task)), asking.has(keyOf(task))));
  const found = join(all).filter((row) => matches(row, filters));
  return sorted(found, filters.sort, filters.descending === "yes");
}

function choose(select, choices, value) {
  const known = choices.some(([name]) => name === value) ? choices : [...choices, [value, value]];
  select.replaceChildren(...known.map(([name, words]) => element("option", { value: name, selected: name === value }, words)));
}

function drawFilters() {
  const form = at("filters").elements;
  const all = [...tasks.values()].map((task) => rowOf(task, summaries.get(keyOf(task))));
  const values = (name) => [["", "all"], ...[...new Set(all.map((row) => row[name]).filter(Boolean))].sort().map((value) => [value, value])];
  if (document.activeElement !== form.dag) choose(form.dag, values("dag"), filters.dag);
  if (document.activeElement !== form.database) choose(form.database, values("database"), filters.database);
  choose(form.state, CHOICES, filters.state);
  choose(form.time, TIMES, filters.time);
  if (document.activeElement !== form.text) form.text.value = filters.text;
}

function draw() {
  const found = rows();
  from = Math.max(0, Math.min(from, Math.floor((found.length - 1) / SHOWN) * SHOWN));
  const shown = found.slice(from, from + SHOWN);
  drawTable(at("table"), shown, {
    sort: filters.sort,
    descending: filters.descending === "yes",
    onSort,
    empty: total ? "No upload or wait fits the filters." : "No upload or wait yet.",
  });
  const last = Math.min(from + SHOWN, found.length);
  const loaded = tasks.size < total ? ` The newest ${tasks.size} of ${total} tasks are loaded.` : "";
  at("range").textContent = `${found.length ? from + 1 : 0} to ${last} of ${found.length}.${loaded}`;
  at("newer").disabled = from === 0;
  at("older").disabled = last >= found.length && tasks.size >= total;
  at("alone").href = `./${query(filters)}`;
  return { found, shown };
}

// What Airflow filters; the rest is filtered here.
function request() {
  const states = filters.state === "in-flight" ? IN_FLIGHT.flatMap((name) => AIRFLOW_STATES[name]) : AIRFLOW_STATES[filters.state];
  const days = Number(filters.time);
  const startedAfter = days > 0 ? new Date(Date.now() - days * 86400000).toISOString() : "";
  return { dag: filters.dag, states: [...new Set(states ?? [])], startedAfter };
}

function keep(found) {
  for (const task of found) {
    const key = keyOf(task);
    const before = tasks.get(key);
    if (before && (before.id !== task.id || before.try_number !== task.try_number)) summaries.delete(key);
    tasks.set(key, task);
  }
}

async function loadSummaries(wanted, mine) {
  let drawn = Date.now();
  await api.summaries(wanted.map((row) => row.task), (task, summary) => {
    if (mine !== generation) return;
    summaries.set(keyOf(task), summary);
    if (Date.now() - drawn > 300) {
      drawn = Date.now();
      draw();
    }
  });
}

const moving = (row) => row.summary === undefined || IN_FLIGHT.includes(row.state);

async function load({ more = false } = {}) {
  generation += 1;
  const mine = generation;
  window.clearTimeout(timer);
  try {
    const questions = await api.questions();
    const own = questions.filter((task) => api.operators.has(task.operator));
    const page = filters.state === "person"
      ? { tasks: own.filter((task) => !filters.dag || task.dag_id === filters.dag), total: own.length }
      : await api.tasks({ ...request(), offset: more ? tasks.size : 0 });
    if (mine !== generation) return;
    asking = new Set(own.map(keyOf));
    total = page.total;
    keep(page.tasks);
    draw();
    drawFilters();
    performance.mark("table");
    const tiles = finish(mine);
    // A filter by what only the summaries tell needs all of them.
    const shown = draw().shown;
    const all = filters.database || filters.text || filters.state;
    await loadSummaries((all ? allRows() : shown).filter(moving), mine);
    if (mine !== generation) return;
    await loadSummaries(rows().slice(0, CHARTED).filter(moving), mine);
    // The wait for the job of such an upload may be on another page, or not fit the filters.
    const jobs = new Set(rows().map((row) => row.job).filter(Boolean));
    await loadSummaries(allRows().filter((row) => jobs.has(row.job) && moving(row)), mine);
    if (mine !== generation) return;
    const drawn = draw();
    drawFilters();
    drawCharts(at("charts"), at("charts-note"), drawn.found.filter((row) => row.summary !== undefined));
    performance.mark("charts");
    await tiles;
    document.body.dataset.loaded = "yes";
  } catch (error) {
    if (mine === generation) fail(error);
  }
}

function allRows() {
  return [...tasks.values()].map((task) => rowOf(task, summaries.get(keyOf(task)), asking.has(keyOf(task))));
}

async function finish(mine) {
  const found = await measure(api, asking);
  if (mine !== generation) return;
  drawTiles(at("tiles"), found);
  at("error").hidden = true;
  at("status").textContent = `As of ${time(new Date()).slice(11)}. ${found.inFlight ? "Refreshes every 5 seconds." : "Refreshes each minute."}`;
  if (learned) return schedule(found.inFlight ? SOON : LATER);
  learned = true;
  const known = new Set([...tasks.values()].map((task) => JSON.stringify([task.dag_id, task.task_id])));
  if (await api.learnOperators(known).catch(() => false)) {
    tasks.clear();
    return load();
  }
  schedule(found.inFlight ? SOON : LATER);
}

function schedule(delay) {
  window.clearTimeout(timer);
  if (!document.hidden) timer = window.setTimeout(load, delay);
}

function fail(error) {
  at("error").textContent = error instanceof ApiError ? `The uploads could not be loaded. ${error.message}` : "Airflow does not respond.";
  at("error").hidden = false;
  if (!(error instanceof ApiError)) console.error(error);
  if (error.status !== 401) schedule(LATER);
}

function change(values) {
  Object.assign(filters, values);
  write(filters);
  from = 0;
  tasks.clear();
  drawFilters();
  load();
}

function onSort(name) {
  const descending = filters.sort === name ? filters.descending !== "yes" : name === "when";
  Object.assign(filters, { sort: name, descending: descending ? "yes" : "no" });
  write(filters);
  draw();
}

function start() {
  followTheme();
  drawFilters();
  const form = at("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target.name !== "text") change({ [event.target.name]: event.target.value });
  });
  let typing = 0;
  form.elements.text.addEventListener("input", (event) => {
    window.clearTimeout(typing);
    typing = window.setTimeout(() => change({ text: event.target.value }), 300);
  });
  at("clear").addEventListener("click", () => {
    form.elements.text.value = "";
    change({ ...DEFAULTS });
  });
  at("alone").addEventListener("click", follow);
  at("refresh").addEventListener("click", () => load());
  at("newer").addEventListener("click", () => {
    from -= SHOWN;
    load();
  });
  at("older").addEventListener("click", () => {
    from += SHOWN;
    load({ more: tasks.size < total && from + SHOWN > tasks.size });
  });
  // Nothing is loaded while nobody sees it.
  document.addEventListener("visibilitychange", () => (document.hidden ? window.clearTimeout(timer) : load()));
  load();
}

start();
