/* The row as a request in curl and Python. */

import { h } from "./dom.js";
import { t } from "./i18n.js";

const GENERATORS = { curl, python };

export function mount(root, { row, predictor }) {
  const code = h("pre", { tabIndex: 0, ariaLabel: t("code") });
  const status = h("span", { role: "status", className: "soft" });
  let format = "curl";
  const choices = Object.keys(GENERATORS).map((name) => h("button", { type: "button", className: "small", onclick: () => { format = name; show(); } }, t(`code.${name}`)));
  const copy = h("button", { type: "button", className: "small", onclick: copyCode }, t("code.copy"));
  const panel = h("details", { id: "code" }, h("summary", null, h("h2", null, t("code"))), h("p", { className: "buttons" }, choices, copy, status), code);
  root.append(panel);

  function show() {
    status.textContent = "";
    choices.forEach((button, index) => button.setAttribute("aria-pressed", String(Object.keys(GENERATORS)[index] === format)));
    if (panel.open && row.faults().length === 0) code.textContent = GENERATORS[format](`${location.origin}/predict`, row.values());
  }

  /* Without TLS the clipboard is not available, so the code is selected, too. */
  async function copyCode() {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      status.textContent = t("code.copied");
    } catch {
      status.textContent = t("code.selected");
    }
  }

  panel.addEventListener("toggle", show);
  predictor.addEventListener("change", show);
}

function curl(url, values) {
  const body = JSON.stringify({ instances: [values] }).replaceAll("'", "'\\''");
  return `curl ${url} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

function python(url, values) {
  const lines = Object.entries(values).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},`);
  return `import requests\n\nrow = {\n${lines.join("\n")}\n}\nresponse = requests.post("${url}", json={"instances": [row]}, timeout=10)\nprint(response.json())`;
}

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}
