/* Whether an answer was right, where the service takes feedback. */

import { messageOf, sendFeedback } from "./api.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";

export function mount(root, { model, asking }) {
  if (model.classes === null || !model.feedback) return;
  const right = h("button", { type: "button", onclick: () => tell((label) => label) }, t("feedback.right"));
  const wrong = h("button", { type: "button", onclick: () => tell(otherThan) }, t("feedback.wrong"));
  const status = h("p", { className: "soft", role: "status" });
  const part = h("section", { className: "feedback", ariaLabel: t("feedback"), hidden: true },
    h("div", { className: "buttons" }, h("span", null, t("feedback")), right, wrong), status);
  root.append(part);
  let asked = null;

  const otherThan = (label) => model.classes.find((name) => name !== label);

  async function tell(labelOf) {
    const { id, prediction } = asked;
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
    const { status: now, answer } = asking.state;
    part.hidden = now !== "current" || !answer.id;
    if (part.hidden || answer === asked) return;
    asked = answer;
    right.disabled = false;
    wrong.disabled = false;
    status.textContent = "";
  }

  asking.addEventListener("change", show);
  show();
}
