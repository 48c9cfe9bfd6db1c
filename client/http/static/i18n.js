/* The page's language: strings come with the page, numbers and dates are the browser's. */

export const language = document.documentElement.lang;
const strings = JSON.parse(document.getElementById("strings").textContent);

/* The string of a key, with its placeholders filled in. */
export function t(key, values = {}) {
  const text = strings[key];
  if (text === undefined) throw new Error(`no string ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const format = (options) => new Intl.NumberFormat(language, options);
const plain = format({ maximumSignificantDigits: 4 });
const large = format({ notation: "compact", maximumSignificantDigits: 3 });
const times = new Intl.DateTimeFormat(language, { timeStyle: "medium" });
const counts = format({ maximumFractionDigits: 0 });
const megabytes = format({ style: "unit", unit: "megabyte", maximumFractionDigits: 1 });
const percents = format({ style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const wholes = format({ style: "percent", maximumFractionDigits: 0 });
const signs = format({ signDisplay: "exceptZero", minimumFractionDigits: 2, maximumFractionDigits: 2 });
const signsLarge = format({ signDisplay: "exceptZero", notation: "compact", maximumSignificantDigits: 3 });
const minus = (text) => text.replace("-", "−");

/* A number for people, with at most four significant digits. */
export function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(1);
  return minus((size < 1e5 ? plain : large).format(value));
}

/* A probability; never 0 % or 100 % unless it is. */
export function percent(value) {
  if (value > 0.999 && value < 1) return `> ${percents.format(0.999)}`;
  if (value < 0.001 && value > 0) return `< ${percents.format(0.001)}`;
  return percents.format(value);
}

export const whole = (share) => wholes.format(share);
export const signed = (value) => minus((Math.abs(value) < 1e3 ? signs : signsLarge).format(value));
export const time = (date) => times.format(date);

/* A count, and a size in megabytes. */
export const count = (value) => counts.format(value);
export const bytes = (value) => megabytes.format(value / 1e6);

export const list = (items) => new Intl.ListFormat(language, { type: "conjunction" }).format(items);
/* A date and time of ISO 8601. */
export const moment = (text) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
/* Whether there is a string; for names that a model may choose. */
export const has = (key) => Object.hasOwn(strings, key);
/* The text for a version's state, given TensorFlow Serving's name for it. */
export const stateText = (state) => (has(`state.${state}`) ? t(`state.${state}`) : state);
export const kindText = (kind) => (has(`kind.${kind}`) ? t(`kind.${kind}`) : kind);
