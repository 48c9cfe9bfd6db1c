/* Explores around the row: what each column alone does to the probability, and what would flip the
   label. All columns go in one request; a search for the edges goes in a few. */

import { ApiError, messageOf, predictRows, probabilitiesOf, stats } from "./api.js";
import { debounced } from "./dom.js";
import { positionOf, textAt, valueOf } from "./row.js";

const PAUSE_MS = 200;
const RETRY_SECONDS = 2;
/* Points of a curve; fewer if a model has so many columns that the request would be long. */
const MAX_POINTS = 25;
const MIN_POINTS = 5;
const MAX_VALUES = 150_000;
const MAX_BARS = 12;
/* Each round halves the stretch in which a label flips. */
const ROUNDS = 8;
/* A rounded value may lie this share of training's range beyond the edge. */
const ROUNDING = 0.005;

/* State: { curves, canary, flips, error }: curves and flips are null until they are known.
     curve  { column, points: [{ text, position, probability, label, canary }], movement };
            `canary` is the probability by the version on trial, if there is one
     canary { version, error } of that version; it may refuse the rows, then error says why
     flip   { column, text, others, change }: the nearest text that flips the label, how many other
            categories do, and the change as a share of training's range */
export class Exploring extends EventTarget {
  #model;
  #row;
  #asking;
  #watchers = [];
  #controller = new AbortController();
  #retry;
  #explored = null;

  constructor(model, row, asking) {
    super();
    this.#model = model;
    this.#row = row;
    this.#asking = asking;
    this.state = { curves: null, canary: null, flips: null, error: null };
    row.onChange(() => this.#stop());
    const soon = debounced(() => this.refresh(), PAUSE_MS);
    asking.addEventListener("change", () => asking.state.status === "current" && soon());
  }

  /* Explores only while some watcher says that it is looked at. */
  watch(isLooking) {
    this.#watchers.push(isLooking);
  }

  #stop() {
    this.#controller.abort();
    clearTimeout(this.#retry);
  }

  #update(changes) {
    this.state = { ...this.state, error: null, ...changes };
    this.dispatchEvent(new Event("change"));
  }

  /* What the version on trial says of the rows, null if there is none. */
  async #askCanary(rows, signal) {
    if (!this.#model.rollout || rows.length === 0) return null;
    const { rollout } = await stats();
    if (!rollout?.canary || rollout.phase === "loading") return null;
    const version = rollout.canary;
    try {
      return { version, probabilities: await probabilitiesOf(this.#model.model, version, this.#row.columns, rows, signal) };
    } catch (error) {
      return { version, error: messageOf(error) };
    }
  }

  async refresh() {
    const { status, answer } = this.#asking.state;
    const known = this.#model.columns.some((column) => column.range || column.values.length > 1);
    if (status !== "current" || !known || typeof answer.prediction?.probability !== "number") return;
    if (answer === this.#explored || !this.#watchers.some((isLooking) => isLooking())) return;
    this.#stop();
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    try {
      const { rows, curves } = planSweep(this.#row);
      const [predictions, canary] = await Promise.all([predictRows(rows, signal), this.#askCanary(rows, signal)]);
      if (signal.aborted) return;
      fill(curves, predictions, canary?.probabilities);
      this.#update({ curves, canary });
      const flips = await search(this.#row, answer, curves, signal);
      if (signal.aborted) return;
      this.#explored = answer;
      this.#update({ flips });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.#update({ error });
      this.#retry = setTimeout(() => this.refresh(), 1000 * (error.retryAfter ?? RETRY_SECONDS));
    }
  }
}

/* The row with other texts in single columns, as lists of values: changes are [{ index, text }, ...]. */
function changed(row, changes) {
  const base = row.columns.map((column) => valueOf(column, row.text(column.name)));
  return changes.map(({ index, text }) => base.with(index, valueOf(row.columns[index], text)));
}

/* The curves of the columns that have a range or values, and the rows that give their points. */
function planSweep(row) {
  const count = Math.max(MIN_POINTS, Math.min(MAX_POINTS, Math.floor(MAX_VALUES / row.columns.length ** 2)));
  const curves = row.columns
    .map((column, index) => ({ column, index, points: pointsOf(column, row.text(column.name), count) }))
    .filter(({ points }) => points.length > 1);
  const changes = curves.flatMap(({ index, points }) => points.map((point) => ({ index, text: point.text })));
  return { curves, rows: changed(row, changes) };
}

/* Gives the points of the curves, in the order of the rows, their predictions. */
function fill(curves, predictions, canary) {
  curves.flatMap(({ points }) => points)
    .forEach((point, place) => Object.assign(point, predictions[place], { canary: canary?.[place] }));
  for (const curve of curves) {
    const sizes = curve.points.map(({ logit, probability }) => (typeof logit === "number" ? logit : probability));
    curve.movement = Math.max(...sizes) - Math.min(...sizes);
  }
}

/* The texts at which a column's curve is computed, in their order. */
function pointsOf(column, present, count) {
  if (!column.range) return categoriesOf(column, present).map((text) => ({ text }));
  const [low, high] = column.range;
  if (!(high > low)) return [];
  const at = (from, to, parts) => Array.from({ length: parts + 1 }, (_, i) => from + ((to - from) * i) / parts);
  const positions = at(low, high, count - 1);
  const here = positionOf(column, present);
  if (here < low) positions.unshift(...at(here, low, 4).slice(0, -1));
  if (here > high) positions.push(...at(high, here, 4).slice(1));
  const points = positions.map((position) => {
    const text = exactText(column, position);
    return { text, position: positionOf(column, text) };
  });
  return points.filter(({ text }, index) => index === 0 || text !== points[index - 1].text);
}

function categoriesOf(column, present) {
  const texts = column.values.slice(0, MAX_BARS);
  if (!texts.includes(present) && (present !== "" || column.missing)) texts.push(present);
  if (column.missing && !texts.includes("")) texts.push("");
  return texts;
}

const exactText = (column, position) => (column.type === "number" ? String(position) : textAt(column, position));

/* Returns for each column the smallest change that flips the label; `text` is null if none does. */
async function search(row, answer, curves, signal) {
  const { label } = answer.prediction;
  const brackets = curves.filter(({ column }) => column.range).flatMap((curve) => bracketsOf(curve, row, label));
  for (let round = 0; round < ROUNDS; round += 1) {
    const open = brackets.filter(({ same, other }) => same !== null && same !== other);
    const middles = open.map(({ curve, same, other }) => ({ index: curve.index, text: exactText(curve.column, (same + other) / 2) }));
    const predictions = await predictRows(changed(row, middles), signal);
    open.forEach((bracket, i) => {
      bracket[predictions[i].label === label ? "same" : "other"] = (bracket.same + bracket.other) / 2;
    });
  }
  const rounded = brackets.map((bracket) => ({ index: bracket.curve.index, text: roundText(bracket) }));
  const checked = await predictRows(changed(row, rounded), signal);
  brackets.forEach((bracket, i) => {
    bracket.text = checked[i].label === label ? exactText(bracket.curve.column, bracket.other) : rounded[i].text;
  });
  return curves
    .map((curve) => (curve.column.range ? nearest(curve, row, brackets) : category(curve, label)))
    .sort((a, b) => a.change - b.change);
}

/* The stretches next to the current value at whose other end the label is another one. */
function bracketsOf(curve, row, label) {
  const [low, high] = curve.column.range;
  const inside = curve.points.filter(({ position }) => position >= low && position <= high);
  const here = positionOf(curve.column, row.text(curve.column.name)) ?? (low + high) / 2;
  const below = inside.filter(({ position }) => position < here).reverse();
  const above = inside.filter(({ position }) => position > here);
  return [below, above].flatMap((side) => {
    const first = side.findIndex((point) => point.label !== label);
    if (first < 0) return [];
    const start = here >= low && here <= high ? here : null;
    return [{ curve, here, same: first > 0 ? side[first - 1].position : start, other: side[first].position }];
  });
}

/* The shortest number at or just beyond the edge, in training's range. */
function roundText({ curve: { column }, here, other }) {
  const [low, high] = column.range;
  const away = other > here ? Math.ceil : Math.floor;
  if (column.type !== "number") return exactText(column, Math.min(high, Math.max(low, away(other))));
  for (let digits = -Math.floor(Math.log10(high - low)); digits < 16; digits += 1) {
    const value = digits > 0 ? Number(`${away(Number(`${other}e${digits}`))}e-${digits}`) : away(other * 10 ** digits) / 10 ** digits;
    if (Math.abs(value - other) <= ROUNDING * (high - low) && value >= low && value <= high) return String(value);
  }
  return String(other);
}

function nearest({ column, index }, row, brackets) {
  const [low, high] = column.range;
  const [best] = brackets
    .filter(({ curve }) => curve.index === index)
    .map(({ text, here }) => ({ text, change: Math.abs(positionOf(column, text) - here) / (high - low) }))
    .sort((a, b) => a.change - b.change);
  return { column, text: best?.text ?? null, others: 0, change: best?.change ?? Infinity };
}

/* Categories have no distance: the first that flips, in training's order; after all numbers. */
function category({ column, points }, label) {
  const flipping = points.filter((point) => point.label !== label && point.text !== "");
  const found = flipping.length > 0;
  return { column, text: found ? flipping[0].text : null, others: Math.max(0, flipping.length - 1), change: found ? 1 : Infinity };
}
