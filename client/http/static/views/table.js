/* Predictions for a whole table. */

import { messageOf } from "../api.js";
import { bars, figure, scale } from "../charts.js";
import { h, s } from "../dom.js";
import { bytes, count as countText, number, percent, t } from "../i18n.js";
import { card, table } from "../parts.js";
import { BINS, count, headersOf, sendTable, Tally } from "../tables.js";

export const id = "table";

const SHOWN_BARS = 50;
const WIDTH = 720;
const HEIGHT = 160;

export function mount(root, { model }) {
  const input = h("input", { type: "file", id: "file", className: "hidden", accept: ".csv,.tsv,.txt,.tab,.ndjson,.jsonl,.arrow,.arrows,.gz" });
  const drop = h("label", { className: "drop", htmlFor: "file" },
    h("strong", null, t("table.drop")), h("span", { className: "button" }, t("table.choose")), h("small", null, t("table.forms")));
  const state = h("div", { id: "table-state" });
  const needed = needs(model);
  root.append(h("h2", { className: "hidden" }, t("tab.table")), input, drop, state, needed);
  let running = new AbortController();
  let download = null;

  const show = (...parts) => state.replaceChildren(...parts);
  const ready = (isReady) => {
    drop.hidden = !isReady;
    input.hidden = !isReady;
    needed.hidden = !isReady || model.columns.length === 0;
  };
  ready(true);

  async function predict(file) {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    const headers = headersOf(file.name);
    if (headers === null) {
      ready(true);
      show(notice(t("table.type", { name: file.name })));
      return;
    }
    ready(false);
    const progress = progressOf(file, () => running.abort());
    show(progress.root);
    progress.focus();
    try {
      const tally = new Tally();
      const blob = await sendTable(file, headers, queryOf(model), progress.update, signal);
      await count(blob, tally, progress.update, signal);
      if (download) URL.revokeObjectURL(download);
      download = URL.createObjectURL(blob);
      const result = resultOf(file, tally, model, download, reset);
      show(result);
      result.focus();
    } catch (error) {
      ready(true);
      if (signal.aborted) {
        if (running.signal === signal) show();
      } else {
        const mayPass = error.status === 0 || error.status === 429 || error.status >= 500;
        show(notice(messageOf(error), mayPass && h("button", { type: "button", onclick: () => predict(file) }, t("table.again"))));
      }
    }
  }

  function reset() {
    ready(true);
    show();
    input.focus();
  }

  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) predict(file);
  });
  // A file that misses the place must not replace the page.
  for (const type of ["dragover", "drop"]) {
    root.ownerDocument.addEventListener(type, (event) => {
      if (root.hidden) return;
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
      const [file] = (type === "drop" && event.dataTransfer.files) || [];
      if (file) predict(file);
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
}

/* The columns of a table, and a table to begin with. */
function needs({ columns }) {
  const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = [columns.map(({ name }) => name), ...[0, 1].map((place) => columns.map(({ examples }) => examples[place] ?? ""))];
  const csv = rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
  return h("section", { className: "card needs" },
    h("h3", null, t("table.needs")),
    h("ul", { tabIndex: 0, ariaLabel: t("columns") }, columns.map(({ name }) => h("li", null, name))),
    h("p", null, h("a", { href: `data:text/csv;charset=utf-8,${encodeURIComponent(csv)}`, download: "example.csv" }, t("table.example"))));
}

function queryOf({ classes }) {
  return new URLSearchParams({ keep: "all", on_error: "row", ...(classes && { outputs: "label,probability" }) });
}

const notice = (text, ...more) => h("div", { className: "notice", role: "alert" }, h("p", null, text), ...more);

function progressOf(file, cancel) {
  const bar = h("progress", { max: 1, value: 0, ariaLabel: t("table.progress") });
  const text = h("p", { role: "status" });
  const root = h("div", { className: "card progress", tabIndex: -1 },
    h("p", null, h("strong", null, file.name)), bar, text, h("button", { type: "button", onclick: cancel }, t("cancel")));
  return {
    root,
    focus: () => root.focus(),
    update(phase, done) {
      text.textContent = t(`table.${phase}`, { done: phase === "counting" ? countText(done) : bytes(done), total: bytes(file.size) });
      if (phase === "sending") bar.value = done / Math.max(1, file.size);
      else bar.removeAttribute("value");
    },
  };
}

function resultOf(file, tally, model, download, reset) {
  const root = h("div", { className: "result", tabIndex: -1, ariaLabel: t("table.result"), role: "region" });
  root.append(
    h("div", { className: "headline" },
      h("p", null, h("strong", null, file.name), " ", h("span", { className: "soft" }, t("table.rows", { rows: countText(tally.rows) }))),
      h("div", { className: "buttons" },
        h("a", { className: "button main", href: download, download: `${file.name.replace(/(\.\w+)+$/, "")}.predictions.csv` }, t("table.download")),
        h("button", { type: "button", onclick: reset }, t("table.other")))),
    ...(tally.hasProbabilities && model.classes ? [distribution(tally, model)] : []),
    ...(tally.errors > 0 ? [faults(tally)] : []),
    firstRows(tally));
  return root;
}

/* The histogram, and the threshold that can be moved. */
function distribution(tally, model) {
  const own = model.threshold;
  const [class0, class1] = model.classes;
  const start = Math.round(own * BINS) / BINS;
  const slider = h("input", { type: "range", id: "threshold", min: 0, max: 1, step: 1 / BINS, value: start });
  const field = h("input", { type: "number", min: 0, max: 1, step: 1 / BINS, value: start, ariaLabel: t("table.threshold") });
  const chart = h("div", null);
  const counts = h("dl", { className: "tiles" });
  const predicted = tally.rows - tally.errors;

  function draw(threshold) {
    const high = tally.atLeast(threshold);
    const isOwn = threshold === start;
    // With the model's own threshold, the labels are those of the service, which writes a quote
    // before those that a spreadsheet would evaluate.
    const ofClass = (name, otherwise) => (isOwn ? tally.labels.get(name) ?? tally.labels.get(`'${name}`) ?? 0 : otherwise);
    const [low1, high1] = [ofClass(class0, predicted - high), ofClass(class1, high)];
    const part = (rows) => percent(predicted ? rows / predicted : 0);
    counts.replaceChildren(
      tile("high", class1, countText(high1), part(high1)),
      tile("low", class0, countText(low1), part(low1)),
      ...(tally.errors > 0 ? [tile("", t("table.errors"), countText(tally.errors), percent(tally.errors / tally.rows))] : []));
    chart.replaceChildren(histogram(tally, threshold, t("table.sentence", {
      threshold: number(threshold), class1, rows: countText(high1), share: part(high1),
    })));
  }
  function move(source, other) {
    const threshold = Math.min(1, Math.max(0, Math.round(Number(source.value) * BINS) / BINS));
    other.value = threshold;
    draw(threshold);
  }
  slider.addEventListener("input", () => move(slider, field));
  field.addEventListener("input", () => { if (field.value !== "" && field.checkValidity()) move(field, slider); });
  draw(start);
  return h("section", { className: "card distribution" },
    h("h3", null, t("table.distribution", { class1 })),
    counts, chart, slider,
    h("p", { className: "ends", ariaHidden: "true" }, h("span", null, class0), h("span", null, class1)),
    h("div", { className: "threshold-row" }, h("label", { htmlFor: "threshold" }, t("table.threshold")), field),
    h("small", null, t("table.note", { threshold: number(own) })));
}

const tile = (className, name, value, share) =>
  h("div", { className }, h("dt", null, name), h("dd", null, value), h("dd", { className: "soft" }, share));

function histogram(tally, threshold, sentence) {
  const x = scale([0, 1], [0, WIDTH]);
  const size = BINS / SHOWN_BARS;
  const bins = Array.from({ length: SHOWN_BARS }, (_, place) => ({
    from: place / SHOWN_BARS,
    to: (place + 1) / SHOWN_BARS,
    // The last bar includes 1.
    height: tally.bins.subarray(place * size, place + 1 < SHOWN_BARS ? (place + 1) * size : undefined).reduce((sum, one) => sum + one, 0),
  }));
  const drawn = bars(bins, x, HEIGHT, HEIGHT - 8, "bar");
  bins.forEach(({ from, to }, place) => drawn[place].classList.add((from + to) / 2 < threshold ? "low" : "high"));
  return figure(sentence, WIDTH, HEIGHT + 1, [
    drawn,
    s("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    s("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: 0, y2: HEIGHT }),
  ], {
    stretched: true,
    head: [t("table.probability"), t("table.count")],
    rows: bins.map(({ from, to, height }) => [`${percent(from)} – ${percent(to)}`, countText(height)]),
  });
}

function faults(tally) {
  const more = tally.errors - tally.faults.length;
  return card(t("table.faults", { rows: countText(tally.errors) }),
    h("ul", { className: "faults", tabIndex: 0 }, tally.faults.map((text) => h("li", null, text))),
    more > 0 && h("p", { className: "soft" }, t("table.more", { rows: countText(more) })));
}

/* The first rows, the predictions in front. */
function firstRows({ header, first, errors }) {
  const outputs = ["label", "probability", ...(errors > 0 ? ["error"] : [])].map((name) => header.indexOf(name));
  const outside = header.indexOf("error");
  const order = [
    ...outputs.filter((place) => place >= 0),
    ...header.map((_, place) => place).filter((place) => !outputs.includes(place) && place !== outside),
  ];
  const probability = header.indexOf("probability");
  const shown = (text = "", place) => (place === probability && text !== "" ? number(Number(text)) : text);
  const isNumber = (text = "") => text.trim() !== "" && Number.isFinite(Number(text));
  const isNumeric = (place) => first.some((cells) => isNumber(cells[place])) && first.every((cells) => !cells[place] || isNumber(cells[place]));
  const numeric = [...order.keys()].filter((index) => isNumeric(order[index]));
  const rows = first.map((cells) => order.map((place) => shown(cells[place], place)));
  return card(t("table.first"), table(t("table.first"), order.map((place) => header[place]), rows, numeric));
}
