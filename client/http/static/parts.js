/* Parts that views share. */

import { h } from "./dom.js";

export const card = (title, ...content) => h("section", { className: "card" }, h("h3", null, title), content);

/* A table that scrolls if it is too wide. The first column holds the row headers; `numeric` lists
   the right-aligned columns by index. */
export function table(caption, head, rows, numeric = []) {
  const cell = (tag, scope) => (content, index) => h(tag, { scope, className: numeric.includes(index) ? "n" : "" }, content);
  return h("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption },
    h("table", { className: "data" },
      h("thead", null, h("tr", null, head.map(cell("th", "col")))),
      h("tbody", null, rows.map(([name, ...others]) => h("tr", null,
        cell("th", "row")(name, 0), others.map((content, index) => cell("td")(content, index + 1)))))));
}

/* Name-value pairs; empty values are skipped. */
export const facts = (pairs) => h("dl", { className: "facts" }, pairs
  .filter(([, value]) => (value ?? "") !== "")
  .map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
