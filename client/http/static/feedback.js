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
  let rated = null;

  const otherClass = (label) => model.classes.find((name) => name !== label);

  async function send(labelOf) {
    const { id, prediction } = rated;
    const label = labelOf(prediction.label);
    right.disabled = true;
    wrong.disabled = true;
    try {
      await sendFeedback(id, label);
      status.textContent = t("feedback.thanks", { label });
    } catch (error) {
      status.textContent = messageOf(error);
      right.disabled = false;
      wrong.disabled = false;
    }
  }

  function show() {
    const { status: state, answer } = predictor.state;
    section.hidden = state !== "current" || !answer.id;
    if (section.hidden || answer === rated) return;
    rated = answer;
    right.disabled = false;
    wrong.disabled = false;
    status.textContent = "";
  }

  predictor.addEventListener("change", show);
  show();
}
