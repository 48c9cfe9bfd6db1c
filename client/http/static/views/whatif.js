/* What if: how each column alone moves the probability. */

import { barsOf, curveOf } from "../charts.js";
import { h, titleOf } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { positionOf, shownText, textAt, textOfDay } from "../row.js";

export const id = "whatif";
export const explores = true;

const STEPS = 200;
const FLAT = 0.02;

export function mount(root, { model, row, asking, exploring }) {
  const status = h("p", { className: "soft", role: "status" });
  const legend = h("p", { className: "legend", hidden: true });
  const cards = h("div", { className: "cards" });
  const made = new Map();
  let looking = false;
  root.append(h("h2", { className: "hidden" }, t("tab.whatif")), status, legend, cards);
  exploring.watch(() => looking);

  function show() {
    const { curves, canary, error } = exploring.state;
    if (!model.columns.some((column) => column.range || column.values.length > 1)) status.textContent = t("whatif.unknown");
    else if (error) status.textContent = t("explore.failed");
    else if (!curves) status.textContent = t("status.loading");
    else status.replaceChildren(...about(curves));
    if (!curves) return;
    legend.hidden = !canary;
    legend.replaceChildren(...(canary ? versionsOf(canary, asking.state.answer) : []));
    // Do not reorder the cards while one has the focus.
    if (made.size === 0 || !cards.contains(document.activeElement)) {
      const sorted = [...curves].sort((a, b) => b.movement - a.movement);
      for (const { column } of sorted) if (!made.has(column.name)) made.set(column.name, cardOf(column, row));
      cards.replaceChildren(...sorted.map(({ column }) => made.get(column.name).root));
    }
    for (const curve of curves) made.get(curve.column.name)?.draw(curve, model, asking.state.answer, canary?.probabilities && t("whatif.canary", canary));
  }

  /* Around a very sure answer all curves are flat; halfway between the classes they are not. */
  function about(curves) {
    const flat = curves.every(({ points }) => points.every(({ probability }) => Math.abs(probability - points[0].probability) < FLAT));
    if (!flat) return [t("whatif.about")];
    return [t("whatif.flat"), " ", h("button", { type: "button", className: "small", onclick: () => row.set(row.example("between")) }, t("between"))];
  }

  row.onChange(() => { for (const card of made.values()) card.update(); });
  exploring.addEventListener("change", show);
  show();
  return {
    show() { looking = true; exploring.refresh(); },
    hide() { looking = false; },
  };
}

/* The legend of the lines; a version on trial that refuses the row has no line. */
function versionsOf({ version, error }, answer) {
  const sample = (name) => h("i", { className: name, ariaHidden: "true" });
  return [
    h("span", null, sample("stable"), t("whatif.stable", answer)),
    h("span", null, !error && sample("canary"), t("whatif.canary", { version }), error && `: ${error}`),
  ];
}

/* A column's chart with its controls: { root, update(), draw(curve, model, answer, canary) }; canary
   names the version on trial, if the curve has its probabilities. */
function cardOf(column, row) {
  const title = titleOf(column.name);
  const chart = h("div", null);
  const moves = h("small", null);
  const set = (text) => row.set([[column.name, text]]);
  const field = column.range
    ? h("input", { ariaLabel: title, autocomplete: "off", inputMode: column.type === "date" ? "text" : "decimal" })
    : h("select", { ariaLabel: title });
  const slider = column.range && h("input", { type: "range", ariaLabel: t("whatif.slider", { column: title }), min: 0, max: STEPS, step: 1 });
  field.addEventListener("input", () => set(field.value));
  const at = (step) => textAt(column, column.range[0] + ((column.range[1] - column.range[0]) * step) / STEPS);
  if (slider) slider.addEventListener("input", () => set(at(Number(slider.value))));
  const root = h("article", { className: "card column" },
    h("header", null, h("h3", null, title), moves), chart, h("div", { className: "setting" }, slider, field));

  function update() {
    const text = row.text(column.name);
    if (!column.range && ![...field.options].some((option) => option.value === text)) {
      field.append(h("option", { value: text }, shownText(text)));
    }
    if (field.value !== text) field.value = text;
    root.classList.toggle("outside", row.isOutside(column));
    if (!slider) return;
    slider.setAttribute("aria-valuetext", text);
    if (slider === document.activeElement) return;
    const position = positionOf(column, text);
    const [low, high] = column.range;
    if (position !== undefined) slider.value = Math.round((STEPS * (position - low)) / (high - low));
  }

  function draw(curve, model, answer, canary) {
    if (!column.range && field.options.length < curve.points.length) {
      field.replaceChildren(...curve.points.map(({ text }) => h("option", { value: text }, shownText(text))));
    }
    const all = curve.points.map(({ probability }) => probability);
    const [least, most] = [percent(Math.min(...all)), percent(Math.max(...all))];
    moves.textContent = least === most ? least : t("range", { low: least, high: most });
    const reference = model.reference?.columns.find(({ name }) => name === column.name);
    const about = {
      column, title, points: curve.points, classes: model.classes, threshold: model.threshold, reference,
      present: row.text(column.name), probability: answer.prediction.probability, canary,
      shown: column.type === "date" ? textOfDay : number,
    };
    chart.replaceChildren(column.range ? curveOf(about) : barsOf(about));
    update();
  }

  return { root, update, draw };
}
