/* The model: versions, metrics, columns and signatures. */

import { messageOf, stats, versions } from "../api.js";
import { h, titleOf } from "../dom.js";
import { dateTime, hasText, kindText, number, stateText, t } from "../i18n.js";
import { card, facts, table } from "../parts.js";
import { textOfDay } from "../row.js";

export const id = "model";

const MAX_VALUES = 8;
const MAX_TENSORS = 12;

export function mount(root, { model }) {
  const states = h("div", null, h("p", { className: "soft" }, t("status.loading")));
  const columns = t("model.columns", { count: model.columns.length });
  root.append(h("h2", { className: "hidden" }, t("tab.model")), h("div", { className: "stack" },
    h("div", { className: "panels" },
      h("div", { className: "stack" },
        card(t("model.versions"), states),
        model.classes && card(t("model.decision"), decision(model)),
        card(t("model.links"), links())),
      Object.keys(model.metrics).length > 0 && card(t("model.metrics"), metrics(model))),
    model.columns.length > 0 && card(columns, columnTable(columns, model)),
    card(t("model.signatures"), signatures(model))));
  return { show: () => showVersions(states, model) };
}

async function showVersions(root, model) {
  try {
    const [all, { arms }] = await Promise.all([versions(model.model), stats().catch(() => ({ arms: [] }))]);
    const armsOf = (version) => arms.filter((arm) => String(arm.version) === version).map(({ arm }) => arm).join(", ");
    root.replaceChildren(table(t("model.versions"),
      [t("version"), t("model.state"), arms.length > 0 && t("model.arm"), model.reports.length > 0 && t("model.report")].filter(Boolean),
      all.map(({ version, state }) => [
        Number(version) === model.version ? h("b", null, version) : version,
        stateText(state),
        ...(arms.length > 0 ? [armsOf(version)] : []),
        ...(model.reports.length > 0 ? [reportOf(model, version)] : []),
      ])));
  } catch (error) {
    root.replaceChildren(h("p", { className: "notice" }, messageOf(error)));
  }
}

const reportOf = ({ model, reports }, version) => reports.includes(Number(version)) &&
  h("a", { href: `/reports/${encodeURIComponent(model)}/${version}`, ariaLabel: t("model.report.of", { version }) }, t("model.report"));

const decision = ({ classes, threshold, label, trained_at: trainedAt }) => facts([
  [t("model.label"), label],
  [t("model.classes"), classes.join(", ")],
  [t("model.threshold"), t("model.threshold.means", { threshold: number(threshold), class: classes[1] })],
  [t("model.trained"), trainedAt && dateTime(trainedAt)],
]);

function metrics({ metrics: values, metric_intervals: intervals }) {
  const hasIntervals = Object.keys(intervals ?? {}).length > 0;
  const range = (name) => (intervals[name] ? t("range", { low: intervals[name][0]?.toFixed(3), high: intervals[name][1]?.toFixed(3) }) : "");
  return table(t("model.metrics"),
    [t("model.metric"), t("model.value"), ...(hasIntervals ? [t("model.interval")] : [])],
    Object.entries(values).map(([name, value]) => [
      [titleOf(name), hasText(`metric.${name}`) && h("small", null, t(`metric.${name}`))],
      value === null ? "–" : value.toFixed(3),
      ...(hasIntervals ? [range(name)] : []),
    ]), [1, 2]);
}

const links = () => h("ul", null,
  [["/docs/", "docs"], ["/openapi.json", "openapi"], ["/metrics", "prometheus"]]
    .map(([href, key]) => h("li", null, h("a", { href }, t(key)))));

const columnTable = (caption, { columns }) => table(caption,
  [t("model.column"), t("model.seen"), t("model.kind"), t("model.missing")],
  columns.map((column) => [column.name, trainingValues(column), kindText(column.kind), column.missing ? t("yes") : t("no")]));

function trainingValues({ range, values, type, shape }) {
  if (range) {
    const [low, high] = range.map(type === "date" ? textOfDay : number);
    return t("range", { low, high });
  }
  const head = values.slice(0, MAX_VALUES).join(", ");
  return shape ?? (values.length > MAX_VALUES ? t("model.values", { values: head, count: values.length - MAX_VALUES }) : head);
}

function signatures({ signatures: all }) {
  const specList = (specs) => h("ul", null,
    Object.entries(specs).slice(0, MAX_TENSORS).map(([name, spec]) => h("li", null, h("code", null, name), ` ${spec}`)),
    Object.keys(specs).length > MAX_TENSORS && h("li", { className: "soft" }, t("more", { count: Object.keys(specs).length - MAX_TENSORS })));
  return table(t("model.signatures"), [t("model.signature"), t("model.inputs"), t("model.outputs")],
    Object.entries(all).map(([name, { inputs, outputs }]) => [h("code", null, name), specList(inputs), specList(outputs)]));
}
