// Follows the theme of Airflow's UI; alone, that of the system.

import { airflowWindow } from "./dom.js";

function airflowTheme() {
  const root = airflowWindow()?.document.documentElement;
  if (root?.classList.contains("dark")) return "dark";
  if (root?.classList.contains("light")) return "light";
  try {
    const stored = window.localStorage.getItem("theme");
    return stored === "dark" || stored === "light" ? stored : "";
  } catch {
    return "";
  }
}

export function followTheme() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = airflowTheme() || (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  const root = airflowWindow()?.document.documentElement;
  if (root) new MutationObserver(apply).observe(root, { attributes: true, attributeFilter: ["class"] });
}
