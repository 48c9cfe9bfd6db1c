/* Makes elements. Text is always set as text, so that names and values stay what they are. */

const SVG = "http://www.w3.org/2000/svg";

/* Children may be elements, strings, numbers, lists of these; null and false are left out. */
function fill(made, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined) continue;
    if (value === false && typeof made[name] !== "boolean") continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !(made instanceof SVGElement)) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== false && child !== undefined));
  return made;
}

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);
export const s = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

/* Column names as people read them. */
export const titleOf = (name) => name.replaceAll("_", " ");

/* Calls a function once, some time after the last call. */
export function debounced(act, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}
