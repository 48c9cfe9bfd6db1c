/* Creates elements. Text is always set as text, never parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";

/* Children may be elements, strings, numbers, or lists of these; null and false are skipped. */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined) continue;
    if (value === false && typeof element[name] !== "boolean") continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !(element instanceof SVGElement)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => (child ?? false) !== false));
  return element;
}

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);
export const s = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

/* Formats a column name for display. */
export const titleOf = (name) => name.replaceAll("_", " ");

/* Returns a function that delays `callback` until it has not been called for some time. */
export function debounce(callback, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(callback, milliseconds);
  };
}
