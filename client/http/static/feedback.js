/* Buttons that label an answer as right or wrong, if the service accepts feedback. */

import { messageOf, sendFeedback } from "./api.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";

export function mount(root, { model, predictor }) {
  if (model.classes === null || !model.feedback) return;
  const right = h("button", { type: "button", onclick: () => send((label) => label) }, t("feedback.right"));
  const wrong = h("button", { type: "button", onclick: () => send(otherClass) }, t("feedback.wrong"));
  const status = h("p", { className: "soft", role: "status" });
  const section = h("section", { className: "feedback", ariaLabel: t("feedback"), hidden: true },
    h("div", { className: "buttons" }, h("span", null, t("feedback")), right, wrong), status);
  root.append(section);
  let shown = null;

  const otherClass = (label) => model.classes.find((name) => name !== label);

  function disable(isDisabled) {
    right.disabled = isDisabled;
    wrong.disabled = isDisabled;
  }

  async function send(labelOf) {
    const answer = shown;
    const label = labelOf(answer.prediction.label);
    disable(true);
    const problem = await sendFeedback(answer.id, label).then(() => null, messageOf);
    if (answer !== shown) return;
    status.textContent = problem ?? t("feedback.thanks", { label });
    disable(problem === null);
  }

  function show() {
    const { status: state, answer } = predictor.state;
    section.hidden = state !== "current" || !answer.id;
    if (section.hidden || answer === shown) return;
    shown = answer;
    disable(false);
    status.textContent = "";
  }

  predictor.addEventListener("change", show);
  show();
}
