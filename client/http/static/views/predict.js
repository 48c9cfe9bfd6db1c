/* The form, with a field for each column. */

import { h, titleOf, debounce } from "../dom.js";
import { kindText, number, t } from "../i18n.js";
import { pasteButton } from "../paste.js";
import { positionOf, textOfDay } from "../row.js";

export const id = "predict";
export const explores = true;

const KINDS = ["numeric", "number", "integer", "date", "categorical", "text", "boolean", "tensor", "bytes"];
/* Types with long texts. */
const WIDE = ["tensor", "bytes"];
/* With more values, typing is faster than a drop-down list. */
const MAX_OPTIONS = 50;

export function mount(root, page) {
  const { row, predictor } = page;
  if (row.columns.length === 0) {
    root.append(exampleRequest(page.model));
    return;
  }
  const fields = new Map(row.columns.map((column, index) => [column.name, field(column, index, row)]));
  const groups = h("div", { className: "groups" });
  const filter = h("input", { type: "search", id: "filter", placeholder: t("filter"), ariaLabel: t("filter"), autocomplete: "off" });
  const order = h("select", { id: "order", ariaLabel: t("order") },
    ["table", "name", ...(page.model.explains ? ["influence"] : [])].map((name) => h("option", { value: name }, t(`order.${name}`))));
  const noMatch = h("p", { className: "soft", hidden: true }, t("filter.none"));

  function arrange() {
    const query = filter.value.trim().toLowerCase();
    const visible = sortColumns(row.columns, order.value, predictor.state.answer)
      .filter(({ name }) => titleOf(name).toLowerCase().includes(query) || name.toLowerCase().includes(query));
    const kinds = [...new Set([...KINDS, ...visible.map(({ kind }) => kind)])].filter((kind) => visible.some((column) => column.kind === kind));
    const isGrouped = order.value === "table" && kinds.length > 1;
    const sections = isGrouped ? kinds.map((kind) => [kindText(kind), visible.filter((column) => column.kind === kind)]) : [[null, visible]];
    groups.replaceChildren(...sections.map(([title, columns]) => h("fieldset", { className: "fields" },
      title ? h("legend", null, title) : h("legend", { className: "hidden" }, t("columns")),
      columns.map(({ name }) => fields.get(name).root))));
    noMatch.hidden = visible.length > 0;
  }

  const form = h("form", { noValidate: true, onsubmit: (event) => { event.preventDefault(); predictor.predict(); } },
    h("div", { className: "tools" },
      presets(page),
      row.columns.length > 8 && h("div", { className: "finding" }, filter, order)),
    noMatch, groups,
    h("button", { className: "hidden" }, t("predict")));
  root.append(form);

  filter.addEventListener("input", debounce(arrange, 60));
  order.addEventListener("change", arrange);
  predictor.addEventListener("change", () => {
    const faults = new Map(predictor.state.faults);
    for (const [name, control] of fields) control.show(faults.get(name));
  });
  row.onChange(() => { for (const control of fields.values()) control.update(); });
  arrange();
}

function sortColumns(columns, order, answer) {
  if (order === "name") return [...columns].sort((a, b) => titleOf(a.name).localeCompare(titleOf(b.name)));
  const contributions = answer?.explanation?.contribution;
  if (order !== "influence" || !contributions) return columns;
  const influence = ({ name }) => Math.abs(contributions[name] ?? 0);
  return [...columns].sort((a, b) => influence(b) - influence(a));
}

/* Returns buttons that fill in the whole row. */
function presets({ model, row }) {
  const preset = (which, text) => h("button", { type: "button", onclick: () => row.set(row.example(which)) }, text);
  return h("div", { className: "presets" },
    model.classes?.map((name, index) => preset(index, t("typical", { class: name }))),
    model.classes && preset("between", t("between")),
    pasteButton(row));
}

/* Returns a column's field: { root, update(), show(fault) }. */
function field(column, index, row) {
  const inputId = `field-${index}`;
  const name = column.name;
  const control = controlOf(column, inputId);
  const hint = h("small", { id: `${inputId}-hint`, className: column.range ? "hidden" : "" }, hintOf(column));
  const dot = h("i", null);
  const trainingRange = column.range && h("span", { className: "range", ariaHidden: "true" }, ...rangeOf(column).flatMap((text, i) => (i ? [dot, text] : [text])));
  const fault = h("small", { id: `${inputId}-fault`, className: "fault", hidden: true });
  control.setAttribute("name", name);
  control.setAttribute("aria-describedby", `${hint.id} ${fault.id}`);
  control.addEventListener("input", () => row.set([[name, control.value]]));
  const root = h("div", { className: `field${WIDE.includes(column.type) ? " wide" : ""}` },
    h("label", { htmlFor: inputId }, titleOf(name)), control, hint, trainingRange, fault);
  if (column.picture || column.type === "bytes") {
    import("../picture.js").then(({ pictureInput }) => hint.after(pictureInput(column, (text) => row.set([[name, text]]))));
  }

  function update() {
    const text = row.text(name);
    if (control.value !== text) control.value = text;
    root.classList.toggle("outside", row.isOutside(column));
    if (trainingRange) dot.style.setProperty("--at", relativePosition(column, text));
  }

  function show(reason) {
    root.classList.toggle("invalid", reason !== undefined);
    control.setAttribute("aria-invalid", String(reason !== undefined));
    fault.textContent = reason ?? "";
    fault.hidden = reason === undefined;
  }

  update();
  return { root, update, show };
}

function controlOf(column, inputId) {
  if (WIDE.includes(column.type)) return h("textarea", { id: inputId, rows: 3, spellcheck: false, autocomplete: "off" });
  if (column.values.length > 0 && column.values.length <= MAX_OPTIONS) {
    return h("select", { id: inputId },
      column.values.map((value) => h("option", { value }, value)),
      column.missing && h("option", { value: "" }, t("missing")));
  }
  const input = h("input", { id: inputId, autocomplete: "off", placeholder: column.missing && t("missing"),
    inputMode: ["number", "integer"].includes(column.type) && "decimal" });
  if (column.values.length === 0) return input;
  const values = h("datalist", { id: `${inputId}-values` }, column.values.map((value) => h("option", { value })));
  input.setAttribute("list", values.id);
  input.append(values);
  return input;
}

const rangeOf = (column) => column.range.map(column.type === "date" ? textOfDay : number);

function hintOf(column) {
  if (!column.range) return column.shape ?? "";
  const [low, high] = rangeOf(column);
  return t("range", { low, high });
}

/* Returns the position in the training range, clipped to [0, 1]; 0.5 if it is not a number. */
function relativePosition(column, text) {
  const [low, high] = column.range;
  const position = (positionOf(column, text) - low) / (high - low);
  return Number.isFinite(position) ? Math.min(1, Math.max(0, position)) : 0.5;
}

/* Returns an example request, for models without a form. */
function exampleRequest(model) {
  const body = model.example && JSON.stringify(model.example, null, 2);
  return h("div", { className: "empty" },
    h("h2", null, t("noForm")),
    h("p", null, t("noForm.http")),
    body && h("pre", { tabIndex: 0 }, `POST /v1/models/${model.model}:predict\n\n${body}`),
    h("p", null, h("a", { href: "/docs/" }, t("docs"))));
}
