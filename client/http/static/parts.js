/* Parts that several views show. */

import { h } from "./dom.js";

export const card = (title, ...content) => h("section", { className: "card" }, h("h3", null, title), content);

/* A table with its own scrollbar if it is too wide. The first column names the rows; `numeric` has
   the indexes of the right-aligned columns. */
export function table(caption, head, rows, numeric = []) {
  const cell = (tag, scope) => (content, place) => h(tag, { scope, className: numeric.includes(place) ? "n" : "" }, content);
  return h("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption },
    h("table", { className: "data" },
      h("thead", null, h("tr", null, head.map(cell("th", "col")))),
      h("tbody", null, rows.map(([name, ...others]) => h("tr", null,
        cell("th", "row")(name, 0), others.map((content, place) => cell("td")(content, place + 1)))))));
}

/* Names with their values; those without a value are left out. */
export const facts = (pairs) => h("dl", { className: "facts" }, pairs
  .filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
