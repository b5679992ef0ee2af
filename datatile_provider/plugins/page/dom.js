// Elements whose content is text only. No value from outside is ever parsed as HTML.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text) made.textContent = text;
  return made;
}

// The window of Airflow that embeds this page; null if the page is alone, or embedded by another origin.
export function airflowWindow() {
  try {
    return window.top !== window && window.top.document ? window.top : null;
  } catch {
    return null;
  }
}

// Airflow embeds the page in a sandboxed frame, which may neither navigate the top window nor open another one.
// The top window's own link may.
export function follow(event) {
  const top = airflowWindow();
  if (!top) return;
  event.preventDefault();
  const own = event.currentTarget;
  const link = top.document.createElement("a");
  link.href = own.href;
  const elsewhere = own.target === "_blank" || event.ctrlKey || event.metaKey || event.shiftKey;
  if (elsewhere) link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.hidden = true;
  top.document.body.append(link);
  link.click();
  link.remove();
}

export function link(href, text, { blank = false, label, title } = {}) {
  const target = blank ? "_blank" : "_top";
  const rel = "noopener noreferrer";
  return element("a", { href, target, rel, title, "aria-label": label, onclick: follow }, text);
}
