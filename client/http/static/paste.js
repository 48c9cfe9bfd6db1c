/* Pasted rows: JSON, or CSV with or without a header. */

import { h } from "./dom.js";
import { list, t } from "./i18n.js";

export function pasteButton(row) {
  const text = h("textarea", { id: "pasted", rows: 6, spellcheck: false, ariaLabel: t("paste.label") });
  const status = h("p", { id: "paste-status", role: "status", className: "soft" });
  const dialog = h("dialog", { ariaLabel: t("paste") },
    h("form", { method: "dialog", onsubmit: (event) => { if (event.submitter?.value === "use") { event.preventDefault(); use(); } } },
      h("h2", null, t("paste")),
      h("p", { className: "soft" }, t("paste.forms")),
      text, status,
      h("p", { className: "buttons" },
        h("button", { value: "use", className: "main" }, t("paste.use")),
        h("button", { value: "close" }, t("close")))));

  function use() {
    const { entries, unknown } = readRow(text.value, row.columns);
    if (entries.length === 0) {
      status.textContent = t("paste.none");
      return;
    }
    row.set(entries);
    status.textContent = unknown.length > 0 ? t("paste.ignored", { columns: list(unknown) }) : "";
    if (unknown.length === 0) dialog.close();
  }

  const button = h("button", { type: "button", onclick: () => { status.textContent = ""; dialog.showModal(); } }, t("paste"));
  document.body.append(dialog);
  return button;
}

/* Returns the columns' texts in a pasted row, and the names of unknown columns. */
export function readRow(pasted, columns) {
  const entries = /^\s*[{[]/.test(pasted) ? parseJson(pasted, columns) : parseCsv(pasted, columns);
  const known = new Set(columns.map(({ name }) => name));
  return {
    entries: entries.filter(([name]) => known.has(name)),
    unknown: entries.map(([name]) => name).filter((name) => !known.has(name)),
  };
}

/* Integers keep all digits if the browser provides their source text. */
function parseJson(pasted, columns) {
  let body;
  try {
    body = JSON.parse(pasted, (_, value, context) =>
      typeof value === "number" && context?.source ? { digits: context.source } : value);
  } catch {
    return [];
  }
  const first = (value) => (Array.isArray(value) ? value[0] : value);
  let values = first(body?.instances ?? body);
  if (body?.inputs) values = Object.fromEntries(Object.entries(body.inputs).map(([name, all]) => [name, first(all)]));
  if (Array.isArray(body) && body.length === columns.length && (values === null || typeof values !== "object" || values.digits)) values = body;
  if (Array.isArray(values)) values = Object.fromEntries(columns.map(({ name }, index) => [name, values[index]]));
  if (values === null || typeof values !== "object") return [];
  return Object.entries(values).map(([name, value]) => [name, textOf(value)]);
}

function textOf(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "object") return String(value);
  return value.digits ?? JSON.stringify(value, (_, inner) => (inner?.digits ? JSON.rawJSON(inner.digits) : inner));
}

function parseCsv(pasted, columns) {
  const lines = pasted.replace(/\r\n?/g, "\n").split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) return [];
  const separator = ["\t", ";", ",", "|"].reduce((best, next) => (splitCells(lines[0], next).length > splitCells(lines[0], best).length ? next : best));
  const [head, ...rows] = lines.map((line) => splitCells(line, separator).map((cell) => cell.trim()));
  const names = new Set(columns.map(({ name }) => name));
  if (rows.length > 0 && head.some((name) => names.has(name))) return head.map((name, index) => [name, rows[0][index] ?? ""]);
  return head.length === columns.length ? columns.map(({ name }, index) => [name, head[index]]) : [];
}

/* Splits a line into cells; quoted cells may contain separators. */
function splitCells(line, separator) {
  const cells = [""];
  let quoted = false;
  for (let index = 0; index < line.length; index += 1) {
    const character = line[index];
    if (quoted && character === '"' && line[index + 1] === '"') index += 1;
    else if (character === '"') { quoted = !quoted; continue; }
    else if (character === separator && !quoted) { cells.push(""); continue; }
    cells[cells.length - 1] += character;
  }
  return cells;
}
