/* Charts as SVG, each labelled with a sentence. `figure` adds a table of the numbers for screen
   readers; its width and height are in viewBox units, which CSS scales. */

import { h, s } from "./dom.js";
import { number, percent, t, wholePercent } from "./i18n.js";
import { positionOf, shownText } from "./row.js";

/* Returns a chart with its table.

   sentence: description of the chart
   head, rows: texts of the table
   stretched: whether the drawing fills its element regardless of proportions */
export function figure(sentence, width, height, drawing, { head, rows, stretched }) {
  return h("figure", { className: "chart" },
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": sentence, preserveAspectRatio: stretched && "none" }, drawing),
    // A table does not shrink to the size of `.hidden`, so its wrapper is hidden.
    h("div", { className: "hidden" }, h("table", null,
      h("caption", null, sentence),
      h("thead", null, h("tr", null, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", null, rows.map((row) => h("tr", null, row.map((text) => h("td", null, text))))))));
}

/* Returns a linear map from a domain to a range. */
export const scale = ([low, high], [from, to]) => (value) =>
  high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2;

/* Returns the bars of a histogram.

   bins: [{ from, to, height }]; the highest bin gets the full height */
export const bars = (bins, x, base, height, className) => {
  const top = Math.max(...bins.map((bin) => bin.height), Number.MIN_VALUE);
  return bins.map((bin) => s("rect", {
    class: className,
    x: x(bin.from),
    width: Math.max(0, x(bin.to) - x(bin.from)),
    y: base - (bin.height / top) * height,
    height: (bin.height / top) * height,
  }));
};

/* points: [[x, y], ...] */
export const line = (points, className) =>
  s("polyline", { class: className, points: points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ") });

/* Marks the probability and the threshold on a scale from class 0 to class 1. */
export function probabilityScale(probability, threshold, [class0, class1]) {
  const at = (fraction) => `${(100 * fraction).toFixed(2)}%`;
  const anchor = threshold < 0.2 ? "start" : threshold > 0.8 ? "end" : "middle";
  const sentence = t("scale", { probability: percent(probability), threshold: percent(threshold), class0, class1 });
  const roomy = threshold > 0.35 && threshold < 0.65;
  return h("figure", { className: `chart scale${roomy ? " roomy" : ""}` },
    s("svg", { role: "img", "aria-label": sentence, height: 34 },
      s("rect", { class: "low", x: 0, width: at(threshold), y: 8, height: 8 }),
      s("rect", { class: "high", x: at(threshold), width: at(1 - threshold), y: 8, height: 8 }),
      s("line", { class: "threshold", x1: at(threshold), x2: at(threshold), y1: 3, y2: 21 }),
      s("text", { class: "tick", x: at(threshold), y: 33, "text-anchor": anchor }, t("scale.threshold", { threshold: number(threshold) })),
      s("circle", { class: "mark", cx: at(probability), cy: 12, r: 7 })),
    h("p", { className: "ends", ariaHidden: "true" }, h("span", null, class0), h("span", null, class1)));
}

/* Sizes of the what-if charts. */
const WIDTH = 320;
const PLOT = { left: 34, right: 312, top: 8, bottom: 92 };
const DENSITY = { top: 98, bottom: 118 };
const probabilityAxis = scale([0, 1], [PLOT.bottom, PLOT.top]);

/* Returns definitions that charts share; insert them once per page. */
export const definitions = (threshold) =>
  s("svg", { class: "hidden", "aria-hidden": "true", width: 0, height: 0 }, s("defs", null,
    s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 6 })),
    s("linearGradient", { id: "sides", gradientUnits: "userSpaceOnUse", x1: 0, x2: 0, y1: PLOT.bottom, y2: PLOT.top },
      s("stop", { class: "low", offset: threshold }), s("stop", { class: "high", offset: threshold }))));

/* Plots the probability of class 1 over a numeric column, with threshold, current value and training
   distribution. `canaryName` is given if the points have the canary's probabilities. */
export function curveChart({ column, title, points, classes, threshold, reference, current, probability, canaryName, format }) {
  const [low, high] = column.range;
  const ends = [points[0].position, points.at(-1).position];
  const x = scale([Math.min(low, ends[0]), Math.max(high, ends[1])], [PLOT.left, PLOT.right]);
  const position = positionOf(column, current);
  const probabilities = points.map((point) => point.probability);
  const sentence = t("whatif.curve", {
    column: title, class: classes[1], low: percent(Math.min(...probabilities)), high: percent(Math.max(...probabilities)),
    current: position === undefined ? t("missing") : format(position), probability: percent(probability),
  });
  const along = (name) => points.map((point) => [x(point.position), probabilityAxis(point[name])]);
  const outside = [[ends[0], low], [high, ends[1]]].filter(([from, to]) => to > from);
  return figure(sentence, WIDTH, reference ? 136 : 116, [
    outside.map(([from, to]) => s("rect", { class: "outside", x: x(from), width: x(to) - x(from), y: PLOT.top, height: PLOT.bottom - PLOT.top })),
    axis(PLOT.left, PLOT.right, threshold),
    reference && bars(densityOf(reference, column.range), x, DENSITY.bottom, DENSITY.bottom - DENSITY.top, "training"),
    line(along("probability"), "curve"),
    canaryName && line(along("canary"), "canary"),
    position !== undefined && [
      s("line", { class: "current", x1: x(position), x2: x(position), y1: PLOT.top, y2: reference ? DENSITY.bottom : PLOT.bottom }),
      s("circle", { class: "mark", cx: x(position), cy: probabilityAxis(probability), r: 5 }),
    ],
    [[low, "start"], [high, "end"]].map(([value, anchor]) =>
      s("text", { class: "tick", x: x(value), y: reference ? 132 : 108, "text-anchor": anchor }, format(value))),
  ], {
    head: [title, t("probability", { class: classes[1] }), canaryName].filter(Boolean),
    rows: points.map((point) => [format(point.position), percent(point.probability), canaryName && percent(point.canary)].filter(Boolean)),
  });
}

/* Plots the probability of class 1 for each category, with its share of training rows below. */
export function barChart({ title, points, classes, threshold, reference, current, probability, canaryName }) {
  const shares = trainingShares(reference);
  const left = 112;
  const x = scale([0, 1], [left, 276]);
  const step = 24;
  const bottom = points.length * step;
  const shorten = (text) => (text.length > 15 ? `${text.slice(0, 14)}…` : text);
  const sentence = t("whatif.bars", { column: title, class: classes[1], current: shownText(current), probability: percent(probability) });
  return figure(sentence, WIDTH, bottom + 4, [
    points.map((point, index) => {
      const y = index * step;
      const share = shares?.get(point.text);
      const isCurrent = point.text === current;
      return [
        s("text", { class: isCurrent ? "tick current" : "tick", x: left - 8, y: y + 14, "text-anchor": "end" }, `${isCurrent ? "● " : ""}${shorten(shownText(point.text))}`),
        s("rect", { class: point.probability >= threshold ? "bar high" : "bar low", x: left, y: y + 3, height: 10, width: Math.max(1, x(point.probability) - left) }),
        share !== undefined && s("rect", { class: "training", x: left, y: y + 14, height: 4, width: x(share) - left }),
        canaryName && s("line", { class: "canary", x1: x(point.canary), x2: x(point.canary), y1: y, y2: y + 16 }),
        s("text", { class: isCurrent ? "tick current" : "tick", x: 312, y: y + 14, "text-anchor": "end" }, percent(point.probability)),
      ];
    }),
    s("line", { class: "limit", x1: x(threshold), x2: x(threshold), y1: 0, y2: bottom }),
  ], {
    head: [title, t("probability", { class: classes[1] }), shares && t("share"), canaryName].filter(Boolean),
    rows: points.map((point) => [shownText(point.text), percent(point.probability),
      shares && percent(shares.get(point.text) ?? 0), canaryName && percent(point.canary)].filter(Boolean)),
  });
}

function axis(left, right, threshold) {
  const [bottom, top, limit] = [0, 1, threshold].map(probabilityAxis);
  return [
    [bottom, top].map((y) => s("line", { class: "grid", x1: left, x2: right, y1: y, y2: y })),
    s("line", { class: "limit", x1: left, x2: right, y1: limit, y2: limit }),
    [[top, 1], [bottom, 0]].map(([y, value]) => s("text", { class: "tick", x: left - 4, y: y + 4, "text-anchor": "end" }, wholePercent(value))),
  ];
}

/* Returns the bins of the training distribution, with shares divided by widths as heights. */
function densityOf({ edges, shares }, [low, high]) {
  // A first bin that holds only the minimum has no width; merge it into the next one.
  if (edges[0] <= low) return densityOf({ edges: edges.slice(1), shares: [shares[0] + shares[1], ...shares.slice(2)] }, [low, high]);
  const inner = edges.filter((edge) => edge > low && edge < high);
  if (inner.length !== edges.length || shares.length !== edges.length + 1) return [];
  const bounds = [low, ...edges, high];
  return shares.map((share, index) => ({ from: bounds[index], to: bounds[index + 1], height: share / (bounds[index + 1] - bounds[index]) }));
}

function trainingShares(reference) {
  if (!reference?.values) return null;
  return new Map([...reference.values.map((value, index) => [value, reference.shares[index]]), ["", reference.missing]]);
}
