/* Explores the row's neighbourhood: the effect of each column on the probability, and the smallest
   changes that flip the label. One request covers all columns; the search takes a few more. */

import { messageOf, predictRows, probabilitiesOf, stats } from "./api.js";
import { debounce } from "./dom.js";
import { t } from "./i18n.js";
import { positionOf, textAt, valueOf } from "./row.js";

const DELAY_MS = 200;
/* Points per curve; fewer if many columns would make the request too long. */
const MAX_POINTS = 25;
const MIN_POINTS = 5;
const MAX_VALUES = 150_000;
const MAX_BARS = 12;
/* Each bisection round halves the interval in which the label flips. */
const ROUNDS = 8;
/* How far rounding may move a value beyond the flip, as a fraction of the training range. */
const MAX_ROUNDING = 0.005;

/* `state` is { curves, canary, flips, answer, error }; all are null until known.
   `error` is a message.
     curve   { column, points: [{ text, position, probability, label, canary }], movement };
             a point's `canary` is the canary version's probability, if there is one
     canary  { version, probabilities } or, if it rejects the rows, { version, error }
     flip    { column, text, others, change }: the nearest text that flips the label, the number of
             other categories that do, and the change as a fraction of the training range
     answer  the answer that the flips change */
export class Explorer extends EventTarget {
  #model;
  #row;
  #predictor;
  #watchers = [];
  #controller = new AbortController();
  #retry;

  constructor(model, row, predictor) {
    super();
    this.#model = model;
    this.#row = row;
    this.#predictor = predictor;
    this.canExplore = model.columns.some((column) => column.range || column.values.length > 1);
    this.state = { curves: null, canary: null, flips: null, answer: null, error: null };
    row.onChange(() => this.#stop());
    const refreshSoon = debounce(() => this.refresh(), DELAY_MS);
    predictor.addEventListener("change", () => predictor.state.status === "current" && refreshSoon());
  }

  /* Registers a predicate; if none returns true, nothing is computed. */
  watch(isVisible) {
    this.#watchers.push(isVisible);
  }

  #stop() {
    this.#controller.abort();
    clearTimeout(this.#retry);
  }

  #update(changes) {
    this.state = { ...this.state, error: null, ...changes };
    this.dispatchEvent(new Event("change"));
  }

  /* Returns the state's `canary` for the rows; null if none is known. */
  async #predictCanary(rows, signal) {
    if (!this.#model.rollout || rows.length === 0) return null;
    const { rollout } = await stats().catch(() => ({}));
    if (!rollout?.canary || rollout.phase === "loading") return null;
    const version = rollout.canary;
    try {
      return { version, probabilities: await probabilitiesOf(this.#model.model, version, this.#row.columns, rows, signal) };
    } catch (error) {
      return { version, error: messageOf(error) };
    }
  }

  async refresh() {
    const { status, answer } = this.#predictor.state;
    if (status !== "current" || !this.canExplore || typeof answer.prediction?.probability !== "number") return;
    if (answer === this.state.answer || !this.#watchers.some((isVisible) => isVisible())) return;
    this.#stop();
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    try {
      const { rows, curves } = planSweep(this.#row);
      const [predictions, canary] = await Promise.all([predictRows(rows, signal), this.#predictCanary(rows, signal)]);
      if (signal.aborted) return;
      assignPredictions(curves, predictions, canary?.probabilities);
      this.#update({ curves, canary });
      const flips = await findFlips(this.#row, answer, curves, signal);
      if (signal.aborted) return;
      this.#update({ flips, answer });
    } catch (error) {
      if (signal.aborted) return;
      const message = messageOf(error);
      this.#update({ error: error.isTransient ? t("explore.failed") : message });
      if (error.isTransient) this.#retry = setTimeout(() => this.refresh(), error.retryMs);
    }
  }
}

/* Returns one list of values per change, { index, text }: the row with that column changed. */
function variationsOf(row, changes) {
  const base = row.columns.map((column) => valueOf(column, row.text(column.name)));
  return changes.map(({ index, text }) => base.with(index, valueOf(row.columns[index], text)));
}

/* Returns the curves of columns with a range or values, and the rows to predict for their points. */
function planSweep(row) {
  const count = Math.max(MIN_POINTS, Math.min(MAX_POINTS, Math.floor(MAX_VALUES / row.columns.length ** 2)));
  const curves = row.columns
    .map((column, index) => ({ column, index, points: pointsOf(column, row.text(column.name), count) }))
    .filter(({ points }) => points.length > 1);
  const changes = curves.flatMap(({ index, points }) => points.map((point) => ({ index, text: point.text })));
  return { curves, rows: variationsOf(row, changes) };
}

function assignPredictions(curves, predictions, canary) {
  curves.flatMap(({ points }) => points)
    .forEach((point, index) => Object.assign(point, predictions[index], { canary: canary?.[index] }));
  for (const curve of curves) {
    const levels = curve.points.map(({ logit, probability }) => (typeof logit === "number" ? logit : probability));
    curve.movement = Math.max(...levels) - Math.min(...levels);
  }
}

/* Returns the points at which a column's curve is computed, in order. */
function pointsOf(column, current, count) {
  if (!column.range) return categoriesOf(column, current).map((text) => ({ text }));
  const [low, high] = column.range;
  if (!(high > low)) return [];
  const linspace = (from, to, steps) => Array.from({ length: steps + 1 }, (_, i) => from + ((to - from) * i) / steps);
  const positions = linspace(low, high, count - 1);
  const origin = positionOf(column, current);
  if (origin < low) positions.unshift(...linspace(origin, low, 4).slice(0, -1));
  if (origin > high) positions.push(...linspace(high, origin, 4).slice(1));
  const points = positions.map((position) => {
    const text = exactText(column, position);
    return { text, position: positionOf(column, text) };
  });
  return points.filter(({ text }, index) => index === 0 || text !== points[index - 1].text);
}

function categoriesOf(column, current) {
  const texts = column.values.slice(0, MAX_BARS);
  if (!texts.includes(current) && (current !== "" || column.missing)) texts.push(current);
  if (column.missing && !texts.includes("")) texts.push("");
  return texts;
}

const exactText = (column, position) => (column.type === "number" ? String(position) : textAt(column, position));

/* Returns the flip of each column, smallest change first; `text` is null if no change flips the label. */
async function findFlips(row, answer, curves, signal) {
  const { label } = answer.prediction;
  const brackets = curves.filter(({ column }) => column.range).flatMap((curve) => bracketsOf(curve, row, label));
  for (let round = 0; round < ROUNDS; round += 1) {
    const open = brackets.filter(({ same, other }) => same !== null && same !== other);
    const middles = open.map(({ curve, same, other }) => ({ index: curve.index, text: exactText(curve.column, (same + other) / 2) }));
    const predictions = await predictRows(variationsOf(row, middles), signal);
    open.forEach((bracket, i) => {
      bracket[predictions[i].label === label ? "same" : "other"] = (bracket.same + bracket.other) / 2;
    });
  }
  const rounded = brackets.map((bracket) => ({ index: bracket.curve.index, text: roundedText(bracket) }));
  const checked = await predictRows(variationsOf(row, rounded), signal);
  brackets.forEach((bracket, i) => {
    bracket.text = checked[i].label === label ? exactText(bracket.curve.column, bracket.other) : rounded[i].text;
  });
  return curves
    .map((curve) => (curve.column.range ? numericFlip(curve, row, brackets) : categoricalFlip(curve, label)))
    .sort((a, b) => a.change - b.change);
}

/* Returns intervals that contain the nearest flip below and above the current value: the label is
   kept at `same`, null if unknown, and flipped at `other`. */
function bracketsOf(curve, row, label) {
  const [low, high] = curve.column.range;
  const inside = curve.points.filter(({ position }) => position >= low && position <= high);
  const origin = positionOf(curve.column, row.text(curve.column.name)) ?? (low + high) / 2;
  const below = inside.filter(({ position }) => position < origin).reverse();
  const above = inside.filter(({ position }) => position > origin);
  return [below, above].flatMap((side) => {
    const index = side.findIndex((point) => point.label !== label);
    if (index < 0) return [];
    const start = origin >= low && origin <= high ? origin : null;
    return [{ curve, origin, same: index > 0 ? side[index - 1].position : start, other: side[index].position }];
  });
}

/* Returns the shortest number at or just beyond the flip, within the training range. */
function roundedText({ curve: { column }, origin, other }) {
  const [low, high] = column.range;
  const roundAway = other > origin ? Math.ceil : Math.floor;
  if (column.type !== "number") return exactText(column, Math.min(high, Math.max(low, roundAway(other))));
  for (let digits = -Math.floor(Math.log10(high - low)); digits < 16; digits += 1) {
    const value = digits > 0 ? Number(`${roundAway(Number(`${other}e${digits}`))}e-${digits}`) : roundAway(other * 10 ** digits) / 10 ** digits;
    if (Math.abs(value - other) <= MAX_ROUNDING * (high - low) && value >= low && value <= high) return String(value);
  }
  return String(other);
}

function numericFlip({ column, index }, row, brackets) {
  const [low, high] = column.range;
  const [best] = brackets
    .filter(({ curve }) => curve.index === index)
    .map(({ text, origin }) => ({ text, change: Math.abs(positionOf(column, text) - origin) / (high - low) }))
    .sort((a, b) => a.change - b.change);
  return { column, text: null, others: 0, change: Infinity, ...best };
}

/* Categories have no distance: take the first in vocabulary order that flips the label; its change counts as 1. */
function categoricalFlip({ column, points }, label) {
  const flipping = points.filter((point) => point.label !== label && point.text !== "");
  const hasFlip = flipping.length > 0;
  return { column, text: hasFlip ? flipping[0].text : null, others: Math.max(0, flipping.length - 1), change: hasFlip ? 1 : Infinity };
}
