// Airflow's public REST API, called with the session of the user: it returns only what he may see.

export const PAGE = 100;
const KEY = "datatile";
const OWN = ["DatatileUploadOperator", "DatatileJobSensor", "DatatileUploadDecoratedOperator"];
const AT_ONCE = 6;
const FINAL = new Set(["success", "failed", "skipped", "removed", "upstream_failed"]);

// Airflow may be served below a path; the page is directly below it.
export const AIRFLOW = new URL("../", import.meta.url).pathname;
const part = encodeURIComponent;

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export class Api {
  constructor(fetcher = (url) => window.fetch(url, { credentials: "same-origin" })) {
    this.fetcher = fetcher;
    this.operators = new Set(OWN);
    this.values = new Map();
    this.requests = 0;
  }

  async get(path, parameters = []) {
    this.requests += 1;
    const search = new URLSearchParams(parameters.filter(([, value]) => value !== "")).toString();
    const response = await this.fetcher(`${AIRFLOW}api/v2/${path}${search ? `?${search}` : ""}`);
    if (response.ok) return response.json();
    const reason = response.status === 401 ? "Log in to Airflow again." : `Airflow responded with ${response.status}.`;
    throw new ApiError(response.status, reason);
  }

  // A page of task instances, newest first.
  async tasks({ dag = "", states = [], startedAfter = "", endedAfter = "", offset = 0, limit = PAGE } = {}) {
    const parameters = [
      ...[...this.operators].map((name) => ["operator", name]),
      ...states.map((state) => ["state", state]),
      ["start_date_gte", startedAfter],
      ["end_date_gte", endedAfter],
      ["order_by", "-start_date"],
      ["offset", offset],
      ["limit", limit],
    ];
    try {
      const found = await this.get(`dags/${dag ? part(dag) : "~"}/dagRuns/~/taskInstances`, parameters);
      return { tasks: found.task_instances, total: found.total_entries };
    } catch (error) {
      // The DAG of a shared address may be deleted, or not be the user's.
      if (dag && (error.status === 404 || error.status === 403)) return { tasks: [], total: 0 };
      throw error;
    }
  }

  // The ids of the task instances that wait for a person.
  async questions() {
    try {
      const parameters = [["response_received", "false"], ["limit", PAGE]];
      const found = await this.get("dags/~/dagRuns/~/hitlDetails", parameters);
      return found.hitl_details.map((detail) => detail.task_instance);
    } catch (error) {
      if (error.status === 403 || error.status === 404) return [];
      throw error;
    }
  }

  // The summary that a task has stored; null if there is none. It does not change any more once the task has ended.
  async summary(task) {
    const key = `${task.id} ${task.try_number} ${task.state}`;
    if (this.values.has(key)) return this.values.get(key);
    const value = await this.get(`${path(task)}/xcomEntries/${KEY}`, [["map_index", task.map_index]]).then(
      (entry) => summaryOf(entry.value),
      () => null,
    );
    if (FINAL.has(task.state)) this.values.set(key, value);
    return value;
  }

  // A value that a task has stored as an XCom.
  async value(task, key) {
    const entry = await this.get(`${path(task)}/xcomEntries/${key}`, [["map_index", task.map_index]]);
    return typeof entry.value === "string" ? JSON.parse(entry.value) : entry.value;
  }

  // Calls `found` with each task and its summary, a few requests at a time.
  async summaries(tasks, found) {
    const left = [...tasks];
    const work = async () => {
      for (let task = left.shift(); task; task = left.shift()) found(task, await this.summary(task));
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  // Learns the names of the user's own subclasses, whose tasks store summaries too. Returns whether there are new ones.
  async learnOperators(known) {
    const before = this.operators.size;
    const parameters = [["xcom_key", KEY], ["order_by", "-timestamp"], ["limit", PAGE]];
    const { xcom_entries: entries } = await this.get("dags/~/dagRuns/~/taskInstances/~/xcomEntries", parameters);
    const others = new Map();
    for (const entry of entries) {
      const name = JSON.stringify([entry.dag_id, entry.task_id]);
      if (!known.has(name)) others.set(name, entry);
    }
    for (const entry of [...others.values()].slice(0, 20)) {
      const instance = `dags/${part(entry.dag_id)}/dagRuns/${part(entry.run_id)}/taskInstances`;
      const { task_instances: found } = await this.get(instance, [["task_id", entry.task_id], ["limit", 1]]);
      if (found[0]?.operator) this.operators.add(found[0].operator);
    }
    return this.operators.size > before;
  }
}

function path(task) {
  return `dags/${part(task.dag_id)}/dagRuns/${part(task.dag_run_id)}/taskInstances/${part(task.task_id)}`;
}

// The addresses of a task's pages in Airflow's UI.
export function pages(task) {
  const dag = `${AIRFLOW}dags/${part(task.dag_id)}`;
  const run = `${dag}/runs/${part(task.dag_run_id)}`;
  const mapped = task.map_index < 0 ? "" : `/mapped/${task.map_index}`;
  return { dag, run, task: `${run}/tasks/${part(task.task_id)}${mapped}` };
}

export function summaryOf(value) {
  try {
    const found = typeof value === "string" ? JSON.parse(value) : value;
    return found?.version === 1 ? found : null;
  } catch {
    return null;
  }
}
