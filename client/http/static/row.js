/* The row to predict: the text of each column and the value sent for it. */

import { t } from "./i18n.js";

/* JavaScript numbers are exact only up to 53 bits, but columns hold 64, so the digits are sent. */
function integerOf(text) {
  if (!/^[-+]?\d+$/.test(text)) return undefined;
  return JSON.rawJSON ? JSON.rawJSON(String(BigInt(text))) : Number(text);
}

/* Accepts a decimal comma. */
export function numberOf(text) {
  const value = Number(text.replace(",", "."));
  return text !== "" && Number.isFinite(value) ? value : undefined;
}

/* Returns days since 1970, the unit of date ranges. */
export function dayOf(text) {
  const day = Date.parse(text.replace(" ", "T")) / 86_400_000;
  return Number.isFinite(day) ? day : undefined;
}

export function textOfDay(day) {
  const date = new Date(day * 86_400_000);
  if (Number.isNaN(date.getTime())) return String(day);
  const text = date.toISOString();
  return day % 1 === 0 ? text.slice(0, 10) : `${text.slice(0, 19)}Z`;
}

function tensorOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/* Binary values are sent as base64. */
function bytesOf(text) {
  try {
    return text === "" || atob(text) === "" ? undefined : { b64: text };
  } catch {
    return undefined;
  }
}

const parsers = {
  text: (text) => text,
  date: (text) => text || undefined,
  boolean: (text) => ({ true: true, false: false })[text],
  integer: integerOf,
  number: numberOf,
  tensor: tensorOf,
  bytes: bytesOf,
};

/* Returns the value to send for a column's text, undefined if the text is invalid. */
export function valueOf(column, text) {
  const trimmed = column.type === "text" ? text : text.trim();
  return trimmed === "" && column.missing ? null : parsers[column.type](trimmed);
}

/* Returns a text's position on the column's axis, undefined if it is not a number. */
export const positionOf = (column, text) =>
  column.type === "date" ? dayOf(text.trim()) : numberOf(text.trim());

/* Formats a position on a column's axis with just enough digits to distinguish values. */
export function textAt(column, value) {
  if (column.type === "date") return textOfDay(value);
  if (column.type === "integer") return String(Math.round(value));
  const step = (column.range[1] - column.range[0]) / 1000;
  const digits = step > 0 ? Math.min(20, Math.max(0, Math.ceil(-Math.log10(step)))) : 6;
  return String(Number(value.toFixed(digits)));
}

export const shownText = (text) => (text === "" ? t("missing") : text);

export class Row {
  #texts;
  #listeners = [];

  constructor(columns) {
    this.columns = columns;
    this.#texts = new Map(columns.map((column) => [column.name, column.examples[0] ?? column.values[0] ?? ""]));
    this.start = new Map(this.#texts);
  }

  text(name) {
    return this.#texts.get(name);
  }

  /* Sets columns, [[name, text], ...]; unknown names are ignored. */
  set(entries) {
    for (const [name, text] of entries) if (this.#texts.has(name)) this.#texts.set(name, text);
    for (const listener of this.#listeners) listener();
  }

  onChange(listener) {
    this.#listeners.push(listener);
  }

  get changed() {
    return this.columns.some(({ name }) => this.#texts.get(name) !== this.start.get(name));
  }

  /* Returns invalid columns: [[name, reason], ...]. */
  faults() {
    return this.columns
      .filter((column) => valueOf(column, this.text(column.name)) === undefined)
      .map((column) => [column.name, t(`fault.${column.type}`)]);
  }

  /* Whether a required value is empty. */
  get incomplete() {
    return this.columns.some((column) => this.text(column.name) === "" && valueOf(column, "") === undefined);
  }

  values() {
    return Object.fromEntries(this.columns.map((column) => [column.name, valueOf(column, this.text(column.name))]));
  }

  /* Whether a number is outside the training range, or a category not in the vocabulary. */
  isOutside(column) {
    const text = this.text(column.name);
    if (column.range) {
      const position = positionOf(column, text);
      return position < column.range[0] || position > column.range[1];
    }
    const isCategorical = column.kind === "categorical" || column.type === "boolean";
    return isCategorical && column.values.length > 0 && text !== "" && !column.values.includes(text);
  }

  /* Returns a typical row of class 0 or 1, or the row "between" them. */
  example(which) {
    return this.columns.map((column) => {
      const [text0, text1] = column.examples;
      if (which !== "between") return [column.name, column.examples[which] ?? ""];
      if (!column.range) return [column.name, text0];
      const middle = (positionOf(column, text0) + positionOf(column, text1)) / 2;
      const position = column.type === "date" ? Math.round(middle) : middle;
      return [column.name, Number.isFinite(position) ? textAt(column, position) : text0];
    });
  }
}
