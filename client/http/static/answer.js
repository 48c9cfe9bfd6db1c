/* The panel with the prediction and its explanation. */

import { messageOf } from "./api.js";
import { probabilityScale } from "./charts.js";
import { h, titleOf } from "./dom.js";
import { list, number, percent, signed, t } from "./i18n.js";
import { shownText } from "./row.js";

const MAX_CONTRIBUTIONS = 8;
const MAX_SCORES = 5;

const isLabelled = (model, { prediction }) =>
  model.classes !== null && typeof prediction?.probability === "number" && typeof prediction.label === "string";

const labelProbability = (model, { probability, label }) =>
  label === model.classes[1] ? probability : 1 - probability;

export function mount(root, { model, row, predictor }) {
  const label = h("output", { id: "label" });
  const headline = h("span", { id: "percent" });
  const scale = h("div", { id: "scale" });
  const outputs = h("dl", { id: "outputs", className: "facts" });
  const status = h("p", { id: "status", role: "status" });
  const error = h("p", { id: "error", role: "alert", className: "notice", hidden: true });
  const outside = h("p", { id: "outside", className: "notice", hidden: true });
  const contributions = h("ol", { id: "contributions" });
  const why = h("details", { id: "why", hidden: true, open: matchMedia("(min-width: 56.25rem)").matches },
    h("summary", null, h("h2", null, t("why"))), h("p", { id: "because", className: "soft" }),
    model.classes && h("p", { className: "sides", ariaHidden: "true" }, h("span", null, `← ${model.classes[0]}`), h("span", null, `${model.classes[1]} →`)), contributions);
  const panel = h("section", { id: "answer", ariaLabel: t("answer"), ariaBusy: "false" },
    status, h("div", { className: "verdict" }, label, headline), scale, outputs, error);
  root.append(panel, outside, why);

  function show() {
    const { status: state, answer } = predictor.state;
    panel.dataset.status = state;
    panel.ariaBusy = String(state === "loading");
    status.textContent = statusText(predictor.state, row);
    error.hidden = state !== "failed";
    if (!error.hidden) error.textContent = messageOf(predictor.state.error);
    showOutside();
    if (state === "current") showAnswer(answer);
    panel.classList.toggle("stale", answer !== null && state !== "current");
  }

  function showAnswer(answer) {
    const hasLabel = isLabelled(model, answer);
    scale.hidden = !hasLabel;
    outputs.hidden = hasLabel;
    delete panel.dataset.side;
    if (hasLabel) {
      const { prediction } = answer;
      panel.dataset.side = prediction.label === model.classes[1] ? "high" : "low";
      label.textContent = prediction.label;
      headline.textContent = percent(labelProbability(model, prediction));
      scale.replaceChildren(probabilityScale(prediction.probability, model.threshold, model.classes));
    } else {
      showOutputs(answer.prediction);
    }
    why.hidden = !answer.explanation || !model.classes;
    if (!why.hidden) showWhy(answer);
  }

  /* Shows the outputs of a model without a description; a single number is shown large. */
  function showOutputs(prediction) {
    const isNamed = prediction !== null && typeof prediction === "object" && !Array.isArray(prediction);
    const entries = Object.entries(isNamed ? prediction : { [t("output")]: prediction });
    const isSingle = entries.length === 1 && typeof entries[0][1] === "number";
    label.textContent = isSingle ? entries[0][0] : "";
    headline.textContent = isSingle ? number(entries[0][1]) : "";
    outputs.replaceChildren(...(isSingle ? [] : entries).flatMap(([name, value]) => [
      h("dt", null, name),
      h("dd", null, outputText(value)),
    ]));
  }

  /* Warns of values that training did not cover, for which the model is untested. */
  function showOutside() {
    const names = row.columns.filter((column) => row.isOutside(column)).map(({ name }) => titleOf(name));
    outside.textContent = names.length > 0 ? t("outside", { columns: list(names) }) : "";
    outside.hidden = names.length === 0;
  }

  function showWhy({ explanation, texts }) {
    const all = Object.entries(explanation.contribution)
      .map(([name, amount]) => ({ title: titleOf(name), value: texts.get(name), amount: amount ?? 0 }))
      .sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount));
    why.querySelector("#because").textContent = strongestReasons(all, model.classes);
    const others = all.slice(MAX_CONTRIBUTIONS);
    const items = [
      ...all.slice(0, MAX_CONTRIBUTIONS),
      ...(others.length > 0 ? [{ title: t("why.others", { count: others.length }), amount: others.reduce((sum, { amount }) => sum + amount, 0), plain: true }] : []),
      { title: t("why.bias"), amount: explanation.bias ?? 0, plain: true, barless: true },
    ];
    const largest = Math.max(...all.map(({ amount }) => Math.abs(amount)), 1e-9);
    contributions.replaceChildren(...items.map((item) => contributionItem(item, largest, model.classes)));
  }

  predictor.addEventListener("change", show);
  show();
}

function statusText({ status, answer, faults, error }, row) {
  if (status === "empty") return t("status.empty");
  if (status === "invalid") return row.incomplete ? t("status.incomplete") : t("status.invalid", { count: faults.length });
  if (status === "failed") return error.isTransient ? t("status.waiting") : t("status.failed");
  if (status === "loading") return answer ? t("status.updating") : t("status.loading");
  return t("answer");
}

/* Formats an output; a long list of scores is reduced to the largest, with their indexes. */
function outputText(value) {
  if (typeof value === "string") return value;
  if (typeof value === "number") return number(value);
  const isLong = Array.isArray(value) && value.length > MAX_SCORES && value.every((item) => typeof item === "number");
  if (!isLong) return JSON.stringify(value);
  const largest = [...value.entries()].sort(([, a], [, b]) => b - a).slice(0, MAX_SCORES);
  return t("output.largest", { count: value.length, values: list(largest.map(([index, score]) => `${index}: ${number(score)}`)) });
}

/* Names the column that contributes most to each class. */
function strongestReasons(all, classes) {
  const strongest = (sign) => all.find(({ amount }) => sign * amount > 0);
  const [down, up] = [strongest(-1), strongest(1)];
  return [[up, classes[1]], [down, classes[0]]]
    .filter(([item]) => item)
    .sort(([a], [b]) => Math.abs(b.amount) - Math.abs(a.amount))
    .map(([{ title }, name]) => t("why.because", { column: title, class: name }))
    .join(" ");
}

/* The bias is the same for every row, so it has no bar and does not set the scale. */
function contributionItem({ title, value, amount, plain, barless }, largest, classes) {
  const bar = h("i", null);
  bar.style.setProperty("--size", Math.min(1, Math.abs(amount) / largest));
  return h("li", { className: `${amount < 0 ? "down" : "up"}${plain ? " plain" : ""}` },
    h("span", { className: "name" }, title, value !== undefined && h("small", null, shownText(value))),
    h("span", { className: "track", ariaHidden: "true" }, !barless && bar),
    h("b", null, signed(amount)),
    h("span", { className: "hidden" }, t("why.toward", { class: classes[amount < 0 ? 0 : 1] })));
}
