/* The panel with the answer: what the model says, and why. */

import { messageOf } from "./api.js";
import { scaleOf } from "./charts.js";
import { h, titleOf } from "./dom.js";
import { list, number, percent, signed, t } from "./i18n.js";
import { shownText } from "./row.js";

const SHOWN = 8;
const LARGEST = 5;

/* Whether an answer is a probability with the name of a class. */
const isLabelled = (model, { prediction }) =>
  model.classes !== null && typeof prediction?.probability === "number" && typeof prediction.label === "string";

/* The probability of the class that the answer names. */
const ownProbability = (model, { probability, label }) =>
  label === model.classes[1] ? probability : 1 - probability;

/* Shows the state of the answer in `root`, whenever it changes. */
export function mount(root, { model, row, asking }) {
  const label = h("output", { id: "label" });
  const own = h("span", { id: "percent" });
  const scale = h("div", { id: "scale" });
  const outputs = h("dl", { id: "outputs", className: "facts" });
  const status = h("p", { id: "status", role: "status" });
  const error = h("p", { id: "error", role: "alert", className: "notice", hidden: true });
  const outside = h("p", { id: "outside", className: "notice", hidden: true });
  const contributions = h("ol", { id: "contributions" });
  const why = h("details", { id: "why", hidden: true, open: matchMedia("(min-width: 56.25rem)").matches },
    h("summary", null, h("h2", null, t("why"))), h("p", { id: "because", className: "soft" }),
    model.classes && h("p", { className: "sides", ariaHidden: "true" }, h("span", null, `← ${model.classes[0]}`), h("span", null, `${model.classes[1]} →`)), contributions);
  const head = h("section", { id: "answer", ariaLabel: t("answer"), ariaBusy: "false" },
    status, h("div", { className: "verdict" }, label, own), scale, outputs, error);
  root.append(head, outside, why);

  function show() {
    const { status: now, answer } = asking.state;
    head.dataset.status = now;
    head.ariaBusy = String(now === "loading");
    status.textContent = statusText(asking.state, row);
    error.hidden = now !== "failed";
    if (!error.hidden) error.textContent = messageOf(asking.state.error);
    showOutside();
    if (now === "current") showAnswer(answer);
    head.classList.toggle("stale", answer !== null && now !== "current");
  }

  function showAnswer(answer) {
    const labelled = isLabelled(model, answer);
    scale.hidden = !labelled;
    outputs.hidden = labelled;
    delete head.dataset.side;
    if (labelled) {
      const { prediction } = answer;
      head.dataset.side = prediction.label === model.classes[1] ? "high" : "low";
      label.textContent = prediction.label;
      own.textContent = percent(ownProbability(model, prediction));
      scale.replaceChildren(scaleOf(prediction.probability, model.threshold, model.classes));
    } else {
      showOutputs(answer.prediction);
    }
    why.hidden = !answer.explanation || !model.classes;
    if (!why.hidden) showWhy(answer);
  }

  /* The outputs of a model that does not describe itself; a single number is shown large. */
  function showOutputs(prediction) {
    const plain = prediction !== null && typeof prediction === "object" && !Array.isArray(prediction);
    const all = Object.entries(plain ? prediction : { [t("output")]: prediction });
    const only = all.length === 1 && typeof all[0][1] === "number";
    label.textContent = only ? all[0][0] : "";
    own.textContent = only ? number(all[0][1]) : "";
    outputs.replaceChildren(...(only ? [] : all).flatMap(([name, value]) => [
      h("dt", null, name),
      h("dd", null, outputText(value)),
    ]));
  }

  /* Training has seen no such values, so nobody knows how good the answer is. */
  function showOutside() {
    const names = row.columns.filter((column) => row.isOutside(column)).map(({ name }) => titleOf(name));
    outside.textContent = names.length > 0 ? t("outside", { columns: list(names) }) : "";
    outside.hidden = names.length === 0;
  }

  function showWhy({ explanation, texts }) {
    const all = Object.entries(explanation.contribution)
      .map(([name, share]) => ({ title: titleOf(name), value: texts.get(name), share: share ?? 0 }))
      .sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
    why.querySelector("#because").textContent = because(all, model.classes);
    const rest = all.slice(SHOWN);
    const shown = [
      ...all.slice(0, SHOWN),
      ...(rest.length > 0 ? [{ title: t("why.others", { count: rest.length }), share: rest.reduce((sum, { share }) => sum + share, 0), plain: true }] : []),
      { title: t("why.bias"), share: explanation.bias ?? 0, plain: true, barless: true },
    ];
    const largest = Math.max(...all.map(({ share }) => Math.abs(share)), 1e-9);
    contributions.replaceChildren(...shown.map((one) => contribution(one, largest, model.classes)));
  }

  asking.addEventListener("change", show);
  show();
}

function statusText({ status, answer, faults, waiting }, row) {
  if (status === "empty") return t("status.empty");
  if (status === "faulty") return row.incomplete ? t("status.incomplete") : t("status.faulty", { count: faults.length });
  if (status === "failed") return waiting ? t("status.waiting") : t("status.failed");
  if (status === "loading") return answer ? t("status.updating") : t("status.loading");
  return t("answer");
}

/* An output; of many numbers, such as the scores of classes, the largest with their places. */
function outputText(value) {
  if (typeof value === "string") return value;
  if (typeof value === "number") return number(value);
  const isLong = Array.isArray(value) && value.length > LARGEST && value.every((one) => typeof one === "number");
  if (!isLong) return JSON.stringify(value);
  const largest = [...value.entries()].sort(([, a], [, b]) => b - a).slice(0, LARGEST);
  return t("output.largest", { count: value.length, values: list(largest.map(([place, one]) => `${place}: ${number(one)}`)) });
}

/* The strongest column to each side, in words. */
function because(all, classes) {
  const strongest = (sign) => all.find(({ share }) => sign * share > 0);
  const [down, up] = [strongest(-1), strongest(1)];
  return [[up, classes[1]], [down, classes[0]]]
    .filter(([one]) => one)
    .sort(([a], [b]) => Math.abs(b.share) - Math.abs(a.share))
    .map(([{ title }, name]) => t("why.because", { column: title, class: name }))
    .join(" ");
}

/* The bias is every row's: without a bar, it does not set the scale. */
function contribution({ title, value, share, plain, barless }, largest, classes) {
  const bar = h("i", null);
  bar.style.setProperty("--size", Math.min(1, Math.abs(share) / largest));
  return h("li", { className: `${share < 0 ? "down" : "up"}${plain ? " plain" : ""}` },
    h("span", { className: "name" }, title, value !== undefined && h("small", null, shownText(value))),
    h("span", { className: "track", ariaHidden: "true" }, !barless && bar),
    h("b", null, signed(share)),
    h("span", { className: "hidden" }, t("why.toward", { class: classes[share < 0 ? 0 : 1] })));
}
