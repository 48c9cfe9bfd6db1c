/* Predictions for a whole table. */

import { messageOf } from "../api.js";
import { bars, figure, scale } from "../charts.js";
import { h, s } from "../dom.js";
import { bytes, count, number, percent, t } from "../i18n.js";
import { card, table } from "../parts.js";
import { BINS, headersOf, readInto, sendTable, Tally } from "../tables.js";

export const id = "table";

const SHOWN_BARS = 50;
const WIDTH = 720;
const HEIGHT = 160;

export function mount(root, { model }) {
  const input = h("input", { type: "file", id: "file", className: "hidden", accept: ".csv,.tsv,.txt,.tab,.ndjson,.jsonl,.arrow,.arrows,.gz" });
  const drop = h("label", { className: "drop", htmlFor: "file" },
    h("strong", null, t("table.drop")), h("span", { className: "button" }, t("table.choose")), h("small", null, t("table.forms")));
  const state = h("div", { id: "table-state" });
  const requirements = requirementsCard(model);
  root.append(h("h2", { className: "hidden" }, t("tab.table")), input, drop, state, requirements);
  let controller = new AbortController();
  let download = null;

  const show = (...parts) => state.replaceChildren(...parts);
  const setReady = (isReady) => {
    drop.hidden = !isReady;
    input.hidden = !isReady;
    requirements.hidden = !isReady || model.columns.length === 0;
  };
  setReady(true);

  async function predict(file) {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    const headers = headersOf(file.name);
    if (headers === null) {
      setReady(true);
      show(notice(t("table.type", { name: file.name })));
      return;
    }
    setReady(false);
    const progress = progressOf(file, () => controller.abort());
    show(progress.root);
    progress.focus();
    try {
      const tally = new Tally();
      const blob = await sendTable(file, headers, queryOf(model), progress.update, signal);
      await readInto(blob, tally, progress.update, signal);
      if (download) URL.revokeObjectURL(download);
      download = URL.createObjectURL(blob);
      const result = resultOf(file, tally, model, download, reset);
      show(result);
      result.focus();
    } catch (error) {
      // Another file may have replaced this one.
      if (controller.signal !== signal) return;
      setReady(true);
      show();
      if (signal.aborted) return;
      const canRetry = error.status === 0 || error.status === 429 || error.status >= 500;
      show(notice(messageOf(error), canRetry && h("button", { type: "button", onclick: () => predict(file) }, t("table.again"))));
    }
  }

  function reset() {
    setReady(true);
    show();
    input.focus();
  }

  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) predict(file);
  });
  // A file dropped outside the drop area must not replace the page.
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

/* Lists the required columns and links to an example table. */
function requirementsCard({ columns }) {
  const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = [columns.map(({ name }) => name), ...[0, 1].map((index) => columns.map(({ examples }) => examples[index] ?? ""))];
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
      text.textContent = t(`table.${phase}`, { done: phase === "counting" ? count(done) : bytes(done), total: bytes(file.size) });
      if (phase === "sending") bar.value = done / Math.max(1, file.size);
      else bar.removeAttribute("value");
    },
  };
}

function resultOf(file, tally, model, download, reset) {
  const root = h("div", { className: "result", tabIndex: -1, ariaLabel: t("table.result"), role: "region" });
  root.append(
    h("div", { className: "headline" },
      h("p", null, h("strong", null, file.name), " ", h("span", { className: "soft" }, t("table.rows", { rows: count(tally.rows) }))),
      h("div", { className: "buttons" },
        h("a", { className: "button main", href: download, download: `${file.name.replace(/(\.\w+)+$/, "")}.predictions.csv` }, t("table.download")),
        h("button", { type: "button", onclick: reset }, t("table.other")))),
    ...(tally.hasProbabilities && model.classes ? [distribution(tally, model)] : []),
    ...(tally.errors > 0 ? [errorsCard(tally)] : []),
    firstRowsCard(tally));
  return root;
}

/* Shows the histogram with an adjustable threshold. */
function distribution(tally, model) {
  const [class0, class1] = model.classes;
  const start = Math.round(model.threshold * BINS) / BINS;
  const slider = h("input", { type: "range", id: "threshold", min: 0, max: 1, step: 1 / BINS, value: start });
  const field = h("input", { type: "number", min: 0, max: 1, step: 1 / BINS, value: start, ariaLabel: t("table.threshold") });
  const chart = h("div", null);
  const counts = h("dl", { className: "tiles" });
  const predicted = tally.rows - tally.errors;

  function draw(threshold) {
    const high = tally.countAtLeast(threshold);
    const isModelThreshold = threshold === start;
    // At the model's own threshold, count the service's labels. It puts a quote before labels
    // that a spreadsheet would evaluate.
    const rowsOf = (name, estimate) => (isModelThreshold ? tally.labels.get(name) ?? tally.labels.get(`'${name}`) ?? 0 : estimate);
    const [rows0, rows1] = [rowsOf(class0, predicted - high), rowsOf(class1, high)];
    const percentage = (rows) => percent(predicted ? rows / predicted : 0);
    counts.replaceChildren(
      tile("high", class1, count(rows1), percentage(rows1)),
      tile("low", class0, count(rows0), percentage(rows0)),
      ...(tally.errors > 0 ? [tile("", t("table.errors"), count(tally.errors), percent(tally.errors / tally.rows))] : []));
    chart.replaceChildren(histogram(tally, threshold, t("table.sentence", {
      threshold: number(threshold), class1, rows: count(rows1), share: percentage(rows1),
    })));
  }
  function move(source, target) {
    const threshold = Math.min(1, Math.max(0, Math.round(Number(source.value) * BINS) / BINS));
    target.value = threshold;
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
    h("small", null, t("table.note", { threshold: number(model.threshold) })));
}

const tile = (className, name, value, share) =>
  h("div", { className }, h("dt", null, name), h("dd", null, value), h("dd", { className: "soft" }, share));

function histogram(tally, threshold, sentence) {
  const x = scale([0, 1], [0, WIDTH]);
  const size = BINS / SHOWN_BARS;
  const bins = Array.from({ length: SHOWN_BARS }, (_, index) => ({
    from: index / SHOWN_BARS,
    to: (index + 1) / SHOWN_BARS,
    // The last bar includes 1.
    height: tally.bins.subarray(index * size, index + 1 < SHOWN_BARS ? (index + 1) * size : undefined).reduce((sum, rows) => sum + rows, 0),
  }));
  const rects = bars(bins, x, HEIGHT, HEIGHT - 8, "bar");
  bins.forEach(({ from, to }, index) => rects[index].classList.add((from + to) / 2 < threshold ? "low" : "high"));
  return figure(sentence, WIDTH, HEIGHT + 1, [
    rects,
    s("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    s("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: 0, y2: HEIGHT }),
  ], {
    stretched: true,
    head: [t("table.probability"), t("table.count")],
    rows: bins.map(({ from, to, height }) => [`${percent(from)} – ${percent(to)}`, count(height)]),
  });
}

function errorsCard(tally) {
  const more = tally.errors - tally.messages.length;
  return card(t("table.errorCount", { rows: count(tally.errors) }),
    h("ul", { className: "faults", tabIndex: 0 }, tally.messages.map((text) => h("li", null, text))),
    more > 0 && h("p", { className: "soft" }, t("table.more", { rows: count(more) })));
}

/* Shows the first rows, with the predictions in front. */
function firstRowsCard({ header, firstRows, errors }) {
  const outputs = ["label", "probability", ...(errors > 0 ? ["error"] : [])].map((name) => header.indexOf(name));
  const errorIndex = header.indexOf("error");
  const order = [
    ...outputs.filter((index) => index >= 0),
    ...header.map((_, index) => index).filter((index) => !outputs.includes(index) && index !== errorIndex),
  ];
  const probabilityIndex = header.indexOf("probability");
  const format = (text = "", index) => (index === probabilityIndex && text !== "" ? number(Number(text)) : text);
  const isNumber = (text = "") => text.trim() !== "" && Number.isFinite(Number(text));
  const isNumeric = (index) => firstRows.some((cells) => isNumber(cells[index])) && firstRows.every((cells) => !cells[index] || isNumber(cells[index]));
  const numeric = [...order.keys()].filter((index) => isNumeric(order[index]));
  const rows = firstRows.map((cells) => order.map((index) => format(cells[index], index)));
  return card(t("table.first"), table(t("table.first"), order.map((index) => header[index]), rows, numeric));
}
