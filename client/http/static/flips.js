/* The panel with the smallest change of each column that flips the label. */

import { h, titleOf } from "./dom.js";
import { list, t } from "./i18n.js";
import { shownText } from "./row.js";

const MAX_FLIPS = 8;
const MAX_NAMES = 6;

export function mount(root, { model, row, predictor, explorer }) {
  const items = h("ol", { id: "flips" });
  const summary = h("p", { className: "soft" });
  const panel = h("details", { id: "change", open: matchMedia("(min-width: 56.25rem)").matches },
    h("summary", null, h("h2", null, t("change"))), summary, items);
  panel.addEventListener("toggle", () => explorer.refresh());
  explorer.watch(() => panel.open && !panel.hidden);
  root.append(panel);

  function show() {
    const { flips, answer: flipped, error } = explorer.state;
    const { answer } = predictor.state;
    panel.hidden = !model.classes || typeof answer?.prediction?.probability !== "number";
    if (panel.hidden) return;
    // While flips of the same label are computed, the list stays, so that it does not flicker.
    if (error || flipped?.prediction.label !== answer.prediction.label) {
      summary.textContent = error ?? t("status.loading");
      items.replaceChildren();
      return;
    }
    const flipping = flips.filter(({ text }) => text !== null);
    const withoutFlip = flips.filter(({ text }) => text === null);
    const other = model.classes.find((name) => name !== answer.prediction.label);
    summary.textContent = flipping.length > 0 ? t("change.each", { class: other }) : t("change.none", { class: other });
    const names = withoutFlip.slice(0, MAX_NAMES).map(({ column }) => titleOf(column.name));
    if (withoutFlip.length > MAX_NAMES) names.push(t("more", { count: withoutFlip.length - MAX_NAMES }));
    items.replaceChildren(
      ...flipping.slice(0, MAX_FLIPS).map((flip) => flipItem(flip, row)),
      ...(flipping.length > MAX_FLIPS ? [h("li", { className: "soft" }, t("change.rest", { count: flipping.length - MAX_FLIPS }))] : []),
      ...(flipping.length > 0 && withoutFlip.length > 0 ? [h("li", { className: "soft" }, t("change.not", { columns: list(names) }))] : []));
  }

  explorer.addEventListener("change", show);
  predictor.addEventListener("change", show);
  show();
}

function flipItem({ column, text, others }, row) {
  const title = titleOf(column.name);
  return h("li", null,
    h("span", { className: "name" }, title),
    h("span", { className: "step" }, h("s", null, shownText(row.text(column.name))), " → ", h("b", null, text),
      others > 0 && h("small", null, " ", t("change.others", { count: others }))),
    h("button", { type: "button", className: "small", ariaLabel: t("change.try.label", { column: title, value: text }),
      onclick: () => row.set([[column.name, text]]) }, t("change.try")));
}
