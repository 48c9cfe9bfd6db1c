/* Charts as SVG. Each is one image with a sentence as its label; its numbers stand in a table that
   screen readers find beside it. Sizes are in the units of the view box, which CSS scales. */

import { h, s } from "./dom.js";
import { number, percent, t, whole } from "./i18n.js";
import { positionOf, shownText } from "./row.js";

/* A chart: the drawing, and the table.

   sentence: what it shows, in words
   head, rows: the numbers, as texts
   stretched: whether the drawing fills its element, whatever the proportions */
export function figure(sentence, width, height, drawing, { head, rows, stretched }) {
  return h("figure", { className: "chart" },
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": sentence, preserveAspectRatio: stretched && "none" }, drawing),
    // A table does not shrink to the size of `.hidden`, so an element around it is hidden.
    h("div", { className: "hidden" }, h("table", null,
      h("caption", null, sentence),
      h("thead", null, h("tr", null, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", null, rows.map((row) => h("tr", null, row.map((text) => h("td", null, text))))))));
}

/* Maps a domain to a span of units. */
export const scale = ([low, high], [from, to]) => (value) =>
  high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2;

/* Columns with a common base, as wide as their bins.

   bins: [{ from, to, height }], in the units of x and of the greatest height */
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

/* A line through points [[x, y], ...]. */
export const line = (points, className) =>
  s("polyline", { class: className, points: points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ") });

/* The scale from class 0 to class 1, with marks for the probability and the threshold. */
export function scaleOf(probability, threshold, [class0, class1]) {
  const at = (share) => `${(100 * share).toFixed(2)}%`;
  const anchor = threshold < 0.2 ? "start" : threshold > 0.8 ? "end" : "middle";
  const sentence = t("scale", {
    probability: percent(probability), threshold: percent(threshold), class0, class1,
  });
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

/* Sizes of the what-if charts. The gradient that colours curves by the threshold is shared. */
const WIDTH = 320;
const PLOT = { left: 34, right: 312, top: 8, bottom: 92 };
const SPREAD = { top: 98, bottom: 118 };
const probabilityAxis = scale([0, 1], [PLOT.bottom, PLOT.top]);

/* Definitions that several charts share; insert them once per page. */
export const definitions = (threshold) =>
  s("svg", { class: "hidden", "aria-hidden": "true", width: 0, height: 0 }, s("defs", null,
    s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 6 })),
    s("linearGradient", { id: "sides", gradientUnits: "userSpaceOnUse", x1: 0, x2: 0, y1: PLOT.bottom, y2: PLOT.top },
      s("stop", { class: "low", offset: threshold }), s("stop", { class: "high", offset: threshold }))));

/* The probability over a number: curve, threshold, current value, and training's distribution.
   `canary` names the version on trial, if its probabilities are among the points. */
export function curveOf({ column, title, points, classes, threshold, reference, present, probability, canary, shown }) {
  const [low, high] = column.range;
  const ends = [points[0].position, points.at(-1).position];
  const x = scale([Math.min(low, ends[0]), Math.max(high, ends[1])], [PLOT.left, PLOT.right]);
  const here = positionOf(column, present);
  const all = points.map((point) => point.probability);
  const sentence = t("whatif.curve", {
    column: title, class: classes[1], low: percent(Math.min(...all)), high: percent(Math.max(...all)),
    present: here === undefined ? t("missing") : shown(here), probability: percent(probability),
  });
  const along = (name) => points.map((point) => [x(point.position), probabilityAxis(point[name])]);
  const outside = [[ends[0], low], [high, ends[1]]].filter(([from, to]) => to > from);
  return figure(sentence, WIDTH, reference ? 136 : 116, [
    outside.map(([from, to]) => s("rect", { class: "outside", x: x(from), width: x(to) - x(from), y: PLOT.top, height: PLOT.bottom - PLOT.top })),
    axis(PLOT.left, PLOT.right, threshold),
    reference && bars(densityOf(reference, column.range), x, SPREAD.bottom, SPREAD.bottom - SPREAD.top, "spread"),
    line(along("probability"), "curve"),
    canary && line(along("canary"), "canary"),
    here !== undefined && [
      s("line", { class: "present", x1: x(here), x2: x(here), y1: PLOT.top, y2: reference ? SPREAD.bottom : PLOT.bottom }),
      s("circle", { class: "mark", cx: x(here), cy: probabilityAxis(probability), r: 5 }),
    ],
    [[low, "start"], [high, "end"]].map(([value, anchor]) =>
      s("text", { class: "tick", x: x(value), y: reference ? 132 : 108, "text-anchor": anchor }, shown(value))),
  ], {
    head: [title, t("probability", { class: classes[1] }), ...(canary ? [canary] : [])],
    rows: points.map((point) => [shown(point.position), percent(point.probability), ...(canary ? [percent(point.canary)] : [])]),
  });
}

/* The probability for each category, and below each bar its share in training. */
export function barsOf({ title, points, classes, threshold, reference, present, probability, canary }) {
  const shares = sharesOf(reference);
  const left = 112;
  const x = scale([0, 1], [left, 276]);
  const step = 24;
  const bottom = points.length * step;
  const short = (text) => (text.length > 15 ? `${text.slice(0, 14)}…` : text);
  const sentence = t("whatif.bars", { column: title, class: classes[1], present: shownText(present), probability: percent(probability) });
  return figure(sentence, WIDTH, bottom + 4, [
    points.map((point, index) => {
      const y = index * step;
      const share = shares?.get(point.text);
      const is = point.text === present;
      return [
        s("text", { class: is ? "tick present" : "tick", x: left - 8, y: y + 14, "text-anchor": "end" }, `${is ? "● " : ""}${short(shownText(point.text))}`),
        s("rect", { class: point.probability >= threshold ? "bar high" : "bar low", x: left, y: y + 3, height: 10, width: Math.max(1, x(point.probability) - left) }),
        share !== undefined && s("rect", { class: "spread", x: left, y: y + 14, height: 4, width: (276 - left) * share }),
        canary && s("line", { class: "canary", x1: x(point.canary), x2: x(point.canary), y1: y, y2: y + 16 }),
        s("text", { class: is ? "tick present" : "tick", x: 312, y: y + 14, "text-anchor": "end" }, percent(point.probability)),
      ];
    }),
    s("line", { class: "limit", x1: x(threshold), x2: x(threshold), y1: 0, y2: bottom }),
  ], {
    head: [title, t("probability", { class: classes[1] }), ...(shares ? [t("share")] : []), ...(canary ? [canary] : [])],
    rows: points.map((point) => [shownText(point.text), percent(point.probability),
      ...(shares ? [percent(shares.get(point.text) ?? 0)] : []), ...(canary ? [percent(point.canary)] : [])]),
  });
}

function axis(left, right, threshold) {
  const [zero, one, limit] = [0, 1, threshold].map(probabilityAxis);
  return [
    [zero, one].map((y) => s("line", { class: "grid", x1: left, x2: right, y1: y, y2: y })),
    s("line", { class: "limit", x1: left, x2: right, y1: limit, y2: limit }),
    [[one, 1], [zero, 0]].map(([y, value]) => s("text", { class: "tick", x: left - 4, y: y + 4, "text-anchor": "end" }, whole(value))),
  ];
}

/* The height of training's distribution: shares divided by the widths of their bins. */
function densityOf({ edges, shares }, [low, high]) {
  // A first bin of the minimum alone has no width, so its share joins the next bin.
  if (edges[0] <= low) return densityOf({ edges: edges.slice(1), shares: [shares[0] + shares[1], ...shares.slice(2)] }, [low, high]);
  const inner = edges.filter((edge) => edge > low && edge < high);
  if (inner.length !== edges.length || shares.length !== edges.length + 1) return [];
  const all = [low, ...edges, high];
  return shares.map((share, index) => ({ from: all[index], to: all[index + 1], height: share / (all[index + 1] - all[index]) }));
}

function sharesOf(reference) {
  if (!reference?.values) return null;
  return new Map([...reference.values.map((value, index) => [value, reference.shares[index]]), ["", reference.missing]]);
}
