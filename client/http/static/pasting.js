/* Reads a row that somebody pastes: JSON, or CSV with or without its header. */

import { h } from "./dom.js";
import { list, t } from "./i18n.js";

/* The button, with the dialog that it opens. */
export function pasting(row) {
  const text = h("textarea", { id: "pasted", rows: 6, spellcheck: false, ariaLabel: t("paste.label") });
  const told = h("p", { id: "paste-told", role: "status", className: "soft" });
  const dialog = h("dialog", { ariaLabel: t("paste") },
    h("form", { method: "dialog", onsubmit: (event) => { if (event.submitter?.value === "use") { event.preventDefault(); use(); } } },
      h("h2", null, t("paste")),
      h("p", { className: "soft" }, t("paste.forms")),
      text, told,
      h("p", { className: "buttons" },
        h("button", { value: "use", className: "main" }, t("paste.use")),
        h("button", { value: "close" }, t("close")))));

  function use() {
    const { entries, unknown } = readRow(text.value, row.columns);
    if (entries.length === 0) {
      told.textContent = t("paste.none");
      return;
    }
    row.set(entries);
    told.textContent = unknown.length > 0 ? t("paste.ignored", { columns: list(unknown) }) : "";
    if (unknown.length === 0) dialog.close();
  }

  const button = h("button", { type: "button", onclick: () => { told.textContent = ""; dialog.showModal(); } }, t("paste"));
  document.body.append(dialog);
  return button;
}

/* The columns' texts in a pasted row, and the names that are no columns. */
export function readRow(pasted, columns) {
  const found = pasted.trim().startsWith("{") || pasted.trim().startsWith("[") ? fromJson(pasted, columns) : fromCsv(pasted, columns);
  const known = new Set(columns.map(({ name }) => name));
  return {
    entries: found.filter(([name]) => known.has(name)),
    unknown: found.map(([name]) => name).filter((name) => !known.has(name)),
  };
}

/* Integers keep all their digits: texts are taken from the source, where the browser gives it. */
function fromJson(pasted, columns) {
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

function fromCsv(pasted, columns) {
  const lines = pasted.replace(/\r\n?/g, "\n").split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) return [];
  const separator = ["\t", ";", ",", "|"].reduce((best, one) => (cells(lines[0], one).length > cells(lines[0], best).length ? one : best));
  const [head, ...rest] = lines.map((line) => cells(line, separator).map((cell) => cell.trim()));
  const names = new Set(columns.map(({ name }) => name));
  if (rest.length > 0 && head.some((name) => names.has(name))) return head.map((name, index) => [name, rest[0][index] ?? ""]);
  return head.length === columns.length ? columns.map(({ name }, index) => [name, head[index]]) : [];
}

/* The cells of a line; quotes may hold separators. */
function cells(line, separator) {
  const found = [""];
  let quoted = false;
  for (let at = 0; at < line.length; at += 1) {
    const character = line[at];
    if (quoted && character === '"' && line[at + 1] === '"') at += 1;
    else if (character === '"') { quoted = !quoted; continue; }
    else if (character === separator && !quoted) { found.push(""); continue; }
    found[found.length - 1] += character;
  }
  return found;
}
