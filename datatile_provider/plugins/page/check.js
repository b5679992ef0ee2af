// The page of a wave check: shows the result that the task has stored.

import { Api, pages } from "./api.js";
import { element, link } from "./dom.js";
import { followTheme } from "./theme.js";

const at = (id) => document.getElementById(id);

function counted(number, word) {
  return `${number || "no"} ${word}${number === 1 ? "" : "s"}`;
}

function table(findings) {
  const head = ["Variable", "Before", "In this wave"].map((name) => element("th", { scope: "col" }, name));
  const rows = findings.map((finding) =>
    element("tr", {}, ...[finding.variable, finding.before, finding.after].map((text) => element("td", {}, String(text ?? "")))),
  );
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

function draw(task, result) {
  document.title = `Wave check of ${result.file}`;
  document.querySelector("h1").textContent = document.title;
  const summary = `${counted(result.errors, "error")}, ${counted(result.warnings, "warning")}`;
  const references = result.references.length ? `, compared with ${result.references.join(", ")}` : "";
  at("status").replaceChildren(`${summary}${references}. `, link(pages(task).task, "The task in Airflow"));
  const rules = new Map();
  for (const finding of result.findings) {
    const name = `${finding.severity} ${finding.rule}`;
    rules.set(name, [...(rules.get(name) ?? []), finding]);
  }
  const parts = [...rules].flatMap(([name, findings]) => [
    element("h2", {}, name),
    element("p", {}, findings[0].hint),
    table(findings),
  ]);
  at("findings").replaceChildren(...parts, ...result.notes.map((note) => element("p", {}, note)));
}

async function load() {
  const given = new URLSearchParams(window.location.search);
  const task = {
    dag_id: given.get("dag_id") ?? "",
    dag_run_id: given.get("run_id") ?? "",
    task_id: given.get("task_id") ?? "",
    map_index: Number(given.get("map_index") ?? -1),
  };
  try {
    const result = await new Api().value(task, "return_value");
    if (result?.version !== 1 || !Array.isArray(result.findings)) throw new Error("The task has stored no result yet.");
    draw(task, result);
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
  }
}

followTheme();
load();
