/* Localisation: strings are embedded in the page; the browser formats numbers and dates. */

export const language = document.documentElement.lang;
const strings = JSON.parse(document.getElementById("strings").textContent);

export function t(key, values = {}) {
  const text = strings[key];
  if (text === undefined) throw new Error(`no string ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const format = (options) => new Intl.NumberFormat(language, options);
const plain = format({ maximumSignificantDigits: 4 });
const large = format({ notation: "compact", maximumSignificantDigits: 3 });
const megabytes = format({ style: "unit", unit: "megabyte", maximumFractionDigits: 1 });
const percents = format({ style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const signedPlain = format({ signDisplay: "exceptZero", minimumFractionDigits: 2, maximumFractionDigits: 2 });
const signedLarge = format({ signDisplay: "exceptZero", notation: "compact", maximumSignificantDigits: 3 });
const withMinus = (text) => text.replace("-", "−");

export function number(value) {
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && magnitude < 1e-4) return value.toExponential(1);
  return withMinus((magnitude < 1e5 ? plain : large).format(value));
}

/* Formats a probability; only exact values appear as 0% or 100%. */
export function percent(value) {
  if (value > 0.999 && value < 1) return `> ${percents.format(0.999)}`;
  if (value < 0.001 && value > 0) return `< ${percents.format(0.001)}`;
  return percents.format(value);
}

export const wholePercent = format({ style: "percent", maximumFractionDigits: 0 }).format;
export const signed = (value) => withMinus((Math.abs(value) < 1e3 ? signedPlain : signedLarge).format(value));
export const time = new Intl.DateTimeFormat(language, { timeStyle: "medium" }).format;

export const count = format({ maximumFractionDigits: 0 }).format;
/* Formats a number of bytes in megabytes. */
export const bytes = (value) => megabytes.format(value / 1e6);

export const list = (items) => new Intl.ListFormat(language, { type: "conjunction" }).format(items);
/* Formats a date and time given in ISO 8601. */
export const dateTime = (text) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
/* Whether a key has a string; models may use names without one. */
export const hasText = (key) => Object.hasOwn(strings, key);
export const stateText = (state) => (hasText(`state.${state}`) ? t(`state.${state}`) : state);
export const kindText = (kind) => (hasText(`kind.${kind}`) ? t(`kind.${kind}`) : kind);
