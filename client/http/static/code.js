/* The row as a request, for a shell and for Python. */

import { h } from "./dom.js";
import { t } from "./i18n.js";

const FORMS = { curl, python };

export function mount(root, { row, asking }) {
  const code = h("pre", { tabIndex: 0, ariaLabel: t("code") });
  const told = h("span", { role: "status", className: "soft" });
  let form = "curl";
  const choices = Object.keys(FORMS).map((name) => h("button", { type: "button", className: "small", onclick: () => { form = name; show(); } }, t(`code.${name}`)));
  const copy = h("button", { type: "button", className: "small", onclick: copyCode }, t("code.copy"));
  const panel = h("details", { id: "code" }, h("summary", null, h("h2", null, t("code"))), h("p", { className: "buttons" }, choices, copy, told), code);
  root.append(panel);

  function show() {
    told.textContent = "";
    choices.forEach((button, index) => button.setAttribute("aria-pressed", String(Object.keys(FORMS)[index] === form)));
    if (panel.open && row.faults().length === 0) code.textContent = FORMS[form](`${location.origin}/predict`, row.values());
  }

  /* Browsers give pages without TLS no clipboard, so the code is also marked. */
  async function copyCode() {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      told.textContent = t("code.copied");
    } catch {
      told.textContent = t("code.marked");
    }
  }

  panel.addEventListener("toggle", show);
  asking.addEventListener("change", show);
}

function curl(url, values) {
  const body = JSON.stringify({ instances: [values] }).replaceAll("'", "'\\''");
  return `curl ${url} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

function python(url, values) {
  const lines = Object.entries(values).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},`);
  return `import requests\n\nrow = {\n${lines.join("\n")}\n}\nreply = requests.post("${url}", json={"instances": [row]}, timeout=10)\nprint(reply.json())`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}
