// The filters in the address, so that it can be shared. In Airflow's frame that is the address of the top window.

import { airflowWindow } from "./dom.js";

export const DEFAULTS = {
  dag: "",
  database: "",
  state: "",
  time: "90",
  text: "",
  sort: "when",
  descending: "yes",
};

export function parse(search) {
  const given = new URLSearchParams(search);
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

export function query(filters) {
  const changed = Object.entries(filters).filter(([name, value]) => name in DEFAULTS && value !== DEFAULTS[name]);
  return changed.length ? `?${new URLSearchParams(changed)}` : "";
}

export function read() {
  return parse(window.location.search || airflowWindow()?.location.search || "");
}

export function write(filters) {
  const search = query(filters);
  for (const view of new Set([window, airflowWindow() ?? window])) {
    // The state of the history is that of Airflow's router.
    view.history.replaceState(view.history.state, "", `${view.location.pathname}${search}`);
  }
}
