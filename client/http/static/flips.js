/* What would change the answer: for each column the smallest change that flips the label. */

import { h, titleOf } from "./dom.js";
import { list, t } from "./i18n.js";
import { shownText } from "./row.js";

const SHOWN = 8;
const NAMED = 6;

/* Fills `root`, a place that is shown and hidden as a whole. */
export function mount(root, { model, row, asking, exploring }) {
  const ways = h("ol", { id: "flips" });
  const told = h("p", { className: "soft" });
  const panel = h("details", { id: "change", open: matchMedia("(min-width: 56.25rem)").matches },
    h("summary", null, h("h2", null, t("change"))), told, ways);
  panel.addEventListener("toggle", () => exploring.refresh());
  exploring.watch(() => panel.open && !panel.hidden);
  root.append(panel);

  function show() {
    const { flips, error } = exploring.state;
    const { answer } = asking.state;
    panel.hidden = !model.classes || typeof answer?.prediction?.probability !== "number";
    if (panel.hidden) return;
    if (error) told.textContent = t("explore.failed");
    else if (!flips) told.textContent = t("status.loading");
    if (!flips || error) return;
    const [found, not] = [flips.filter(({ text }) => text !== null), flips.filter(({ text }) => text === null)];
    const other = model.classes.find((name) => name !== answer.prediction.label);
    told.textContent = found.length > 0 ? t("change.each", { class: other }) : t("change.none", { class: other });
    const names = not.slice(0, NAMED).map(({ column }) => titleOf(column.name));
    if (not.length > NAMED) names.push(t("change.more", { count: not.length - NAMED }));
    ways.replaceChildren(
      ...found.slice(0, SHOWN).map((flip) => way(flip, row)),
      ...(found.length > SHOWN ? [h("li", { className: "soft" }, t("change.rest", { count: found.length - SHOWN }))] : []),
      ...(found.length > 0 && not.length > 0 ? [h("li", { className: "soft" }, t("change.not", { columns: list(names) }))] : []));
  }

  exploring.addEventListener("change", show);
  asking.addEventListener("change", show);
  show();
}

function way({ column, text, others }, row) {
  const title = titleOf(column.name);
  return h("li", null,
    h("span", { className: "name" }, title),
    h("span", { className: "step" }, h("s", null, shownText(row.text(column.name))), " → ", h("b", null, text),
      others > 0 && h("small", null, " ", t("change.others", { count: others }))),
    h("button", { type: "button", className: "small", ariaLabel: t("change.try.label", { column: title, value: text }),
      onclick: () => row.set([[column.name, text]]) }, t("change.try")));
}
