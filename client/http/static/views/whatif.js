/* What if: the effect of each column on the probability. */

import { barChart, curveChart } from "../charts.js";
import { h, titleOf } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { positionOf, shownText, textAt, textOfDay } from "../row.js";

export const id = "whatif";
export const explores = true;

const SLIDER_STEPS = 200;
/* Curves that vary by less than this count as flat. */
const MIN_VARIATION = 0.02;

export function mount(root, { model, row, predictor, explorer }) {
  const status = h("p", { className: "soft", role: "status" });
  const legend = h("p", { className: "legend", hidden: true });
  const cards = h("div", { className: "cards" });
  const columnCards = new Map();
  let isVisible = false;
  root.append(h("h2", { className: "hidden" }, t("tab.whatif")), status, legend, cards);
  explorer.watch(() => isVisible);

  function show() {
    const { curves, canary, error } = explorer.state;
    if (!explorer.canExplore) status.textContent = t("whatif.unknown");
    else if (error) status.textContent = error;
    else if (!curves) status.textContent = t("status.loading");
    else status.replaceChildren(...introduction(curves));
    if (!curves) return;
    legend.hidden = !canary;
    legend.replaceChildren(...(canary ? legendOf(canary, predictor.state.answer) : []));
    // Do not reorder the cards while one of them has the focus.
    if (columnCards.size === 0 || !cards.contains(document.activeElement)) {
      const sorted = [...curves].sort((a, b) => b.movement - a.movement);
      for (const { column } of sorted) if (!columnCards.has(column.name)) columnCards.set(column.name, cardOf(column, row));
      cards.replaceChildren(...sorted.map(({ column }) => columnCards.get(column.name).root));
    }
    for (const curve of curves) columnCards.get(curve.column.name)?.draw(curve, model, predictor.state.answer, canary?.probabilities && t("whatif.canary", canary));
  }

  /* All curves are flat around a very certain answer, so suggest a row halfway between the classes. */
  function introduction(curves) {
    const isFlat = curves.every(({ points }) => points.every(({ probability }) => Math.abs(probability - points[0].probability) < MIN_VARIATION));
    if (!isFlat) return [t("whatif.about")];
    return [t("whatif.flat"), " ", h("button", { type: "button", className: "small", onclick: () => row.set(row.example("between")) }, t("between"))];
  }

  row.onChange(() => { for (const card of columnCards.values()) card.update(); });
  explorer.addEventListener("change", show);
  show();
  return {
    show() { isVisible = true; explorer.refresh(); },
    hide() { isVisible = false; },
  };
}

/* Returns the legend; a canary that rejects the rows has an error instead of a line. */
function legendOf({ version, error }, answer) {
  const sample = (name) => h("i", { className: name, ariaHidden: "true" });
  return [
    h("span", null, sample("stable"), t("whatif.stable", answer)),
    h("span", null, !error && sample("canary"), t("whatif.canary", { version }), error && `: ${error}`),
  ];
}

/* Returns a column's chart with its controls: { root, update(), draw(curve, model, answer, canaryName) }.
   `canaryName` is given if the curve has the canary's probabilities. */
function cardOf(column, row) {
  const title = titleOf(column.name);
  const chart = h("div", null);
  const extent = h("small", null);
  const set = (text) => row.set([[column.name, text]]);
  const field = column.range
    ? h("input", { ariaLabel: title, autocomplete: "off", inputMode: column.type === "date" ? "text" : "decimal" })
    : h("select", { ariaLabel: title });
  const slider = column.range && h("input", { type: "range", ariaLabel: t("whatif.slider", { column: title }), min: 0, max: SLIDER_STEPS, step: 1 });
  field.addEventListener("input", () => set(field.value));
  const textAtStep = (step) => textAt(column, column.range[0] + ((column.range[1] - column.range[0]) * step) / SLIDER_STEPS);
  if (slider) slider.addEventListener("input", () => set(textAtStep(Number(slider.value))));
  const root = h("article", { className: "card column" },
    h("header", null, h("h3", null, title), extent), chart, h("div", { className: "setting" }, slider, field));

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
    if (position !== undefined) slider.value = Math.round((SLIDER_STEPS * (position - low)) / (high - low));
  }

  function draw(curve, model, answer, canaryName) {
    if (!column.range && field.options.length < curve.points.length) {
      field.replaceChildren(...curve.points.map(({ text }) => h("option", { value: text }, shownText(text))));
    }
    const probabilities = curve.points.map(({ probability }) => probability);
    const [low, high] = [percent(Math.min(...probabilities)), percent(Math.max(...probabilities))];
    extent.textContent = low === high ? low : t("range", { low, high });
    const reference = model.reference?.columns.find(({ name }) => name === column.name);
    const options = {
      column, title, points: curve.points, classes: model.classes, threshold: model.threshold, reference,
      current: row.text(column.name), probability: answer.prediction.probability, canaryName,
      format: column.type === "date" ? textOfDay : number,
    };
    chart.replaceChildren(column.range ? curveChart(options) : barChart(options));
    update();
  }

  return { root, update, draw };
}
