/* The service's numbers as they change. */

import { messageOf, stats as askStats } from "../api.js";
import { figure, line, scale } from "../charts.js";
import { h, s } from "../dom.js";
import { bytes, count, number, percent, stateText, t, time } from "../i18n.js";
import { card, facts, table } from "../parts.js";

export const id = "live";

const EVERY_MS = 2000;
/* The charts show at most five minutes; percentiles are those of the last ten seconds. */
const SPANS_MINUTES = [1, 2, 5];
const SPAN_MS = 60_000 * SPANS_MINUTES.at(-1);
const WINDOW_MS = 10_000;
const MAX_COLUMNS = 30;
const WIDTH = 320;
const HEIGHT = 96;
const TABLE_ROWS = 12;

export function mount(root) {
  const status = h("p", { className: "soft", role: "status" });
  const error = h("p", { className: "notice", role: "alert", hidden: true });
  const charts = h("div", { className: "charts" });
  const details = h("div", { className: "details" });
  root.append(h("h2", { className: "hidden" }, t("tab.live")), status, error, charts, details);
  let points = [];
  let timer = null;
  let isShown = false;

  async function ask() {
    let stats;
    try {
      stats = await askStats();
    } catch (problem) {
      error.textContent = messageOf(problem);
      error.hidden = false;
      root.classList.add("stale");
    }
    if (stats) {
      error.hidden = true;
      root.classList.remove("stale");
      points = next(points, stats);
      show(points, stats);
    }
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    timer = isShown && !document.hidden ? setTimeout(ask, EVERY_MS) : null;
    if (!timer) status.textContent = t("live.paused");
  }

  /* Requests the numbers at once if the view has become visible. */
  function resume() {
    if (isShown && !document.hidden && timer === null) ask();
    else schedule();
  }

  function show(all, stats) {
    status.textContent = t("live.time", { time: time(new Date(stats.time)) });
    charts.replaceChildren(...series().map((one) => chart(one, all)));
    details.replaceChildren(...[servers(stats), arms(stats), rollout(stats), drift(stats), log(stats)].filter(Boolean));
  }

  document.addEventListener("visibilitychange", resume);
  return {
    show() { isShown = true; resume(); },
    hide() { isShown = false; schedule(); },
  };
}

/* Adds a response to the points; each has its response and the changes since the previous one. */
function next(points, stats) {
  const at = Date.parse(stats.time);
  const last = points.at(-1);
  // A restart resets all counters; after a pause the difference covers a longer time.
  if (last && (stats.requests.total < last.stats.requests.total || at < last.at)) return [{ at, stats }];
  const early = points.find((point) => point.at >= at - WINDOW_MS) ?? last;
  const values = last && at > last.at && at - last.at < 3 * EVERY_MS ? changes(last, early, { at, stats }) : null;
  return [...points.filter((point) => point.at > at - SPAN_MS), { at, stats, values }];
}

function changes(last, early, now) {
  const seconds = (now.at - last.at) / 1000;
  const of = (read) => (read(now.stats) - read(last.stats)) / seconds;
  const refused = ({ requests }) => Object.entries(requests.statuses)
    .reduce((sum, [status, all]) => sum + (status.startsWith("4") ? all : 0), 0);
  const counts = now.stats.requests.seconds.counts.map((all, place) => all - (early.stats.requests.seconds.counts[place] ?? 0));
  const quantile = (share) => quantileOf(now.stats.requests.seconds.bounds, counts, share);
  return {
    requests: of((stats) => stats.requests.total),
    rows: of((stats) => stats.calls.rows),
    p50: quantile(0.5),
    p99: quantile(0.99),
    errors: of((stats) => stats.requests.errors),
    refused: of(refused),
    waiting: now.stats.queue.waiting,
    // The page's own request is in flight, too.
    inFlight: Math.max(0, now.stats.requests.in_flight - 1),
  };
}

/* A quantile interpolated within its bucket, null without observations. */
export function quantileOf(bounds, counts, share) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  if (total === 0) return null;
  let before = 0;
  for (const [place, bound] of bounds.entries()) {
    if (before + counts[place] >= share * total) {
      const begin = place > 0 ? bounds[place - 1] : 0;
      return begin + ((bound - begin) * (share * total - before)) / counts[place];
    }
    before += counts[place];
  }
  return bounds.at(-1);
}

const short = (value) => number(Number(value.toPrecision(3)));
const milliseconds = (seconds) => t("live.ms", { number: short(1000 * seconds) });
const perSecond = (value) => t("live.per", { number: short(value) });

/* The charts; a chart has one or two lines. */
const series = () => [
  { title: t("live.rate"), text: perSecond, lines: [["requests", t("live.requests")], ["rows", t("live.rows")]] },
  { title: t("live.latency"), text: milliseconds, lines: [["p50", t("live.p50")], ["p99", t("live.p99")]] },
  { title: t("live.errors"), text: perSecond, lines: [["errors", t("live.failed")], ["refused", t("live.refused")]] },
  { title: t("live.queue"), text: count, lines: [["waiting", t("live.waiting")], ["inFlight", t("live.inFlight")]] },
];

function chart({ title, text, lines }, points) {
  const shown = (value) => (value === null || value === undefined ? t("live.none") : text(value));
  const now = points.at(-1).values;
  const all = lines.flatMap(([name]) => points.map(({ values }) => values?.[name] ?? 0));
  const top = Math.max(...all);
  const end = points.at(-1).at;
  const minutes = SPANS_MINUTES.find((span) => end - points[0].at <= 60_000 * span) ?? SPANS_MINUTES.at(-1);
  const x = scale([end - 60_000 * minutes, end], [0, WIDTH]);
  const y = scale([0, top || 1], [HEIGHT, 6]);
  const sentence = lines.map(([name, label]) => t("live.sentence", { label, now: shown(now?.[name]), most: shown(Math.max(...points.map(({ values }) => values?.[name] ?? 0))) })).join(" ");
  const step = Math.ceil(points.length / TABLE_ROWS);
  return card(title,
    h("dl", { className: "now" }, lines.map(([name, label], place) =>
      h("div", { className: place === 0 ? "high" : "low" }, h("dt", null, label), h("dd", null, shown(now?.[name]))))),
    figure(sentence, WIDTH, HEIGHT + 1, [
      s("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
      lines.map(([name], place) => pieces(points, name).map((piece) =>
        line(piece.map(({ at, values }) => [x(at), y(values[name])]), place === 0 ? "line high" : "line low"))),
    ], {
      stretched: true,
      head: [t("live.at"), ...lines.map(([, label]) => label)],
      rows: points.filter(({ values }, place) => values && (points.length - 1 - place) % step === 0)
        .map(({ at, values }) => [time(new Date(at)), ...lines.map(([name]) => shown(values[name]))]),
    }),
    h("p", { className: "ends plain", ariaHidden: "true" }, h("span", null, t("live.ago", { minutes })), h("span", null, t("live.most", { number: shown(top) }))));
}

/* The runs of points that have a value: a pause leaves a gap. */
function pieces(points, name) {
  const found = [[]];
  for (const point of points) {
    if (point.values?.[name] === null || point.values?.[name] === undefined) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((piece) => piece.length > 0);
}

const pill = (text, isGood) => h("span", { className: `pill${isGood ? "" : " bad"}` }, text);

const known = (prefix, name) => t(`${prefix}.${name.replaceAll(" ", "")}`);

const tableCard = (title, head, rows, numeric) => card(title, table(title, head, rows, numeric));

function servers({ servers: all }) {
  return tableCard(t("live.servers"), [t("live.server"), t("live.state"), t("live.versions")], all.map(({ address, state, versions }) => [
    address,
    pill(known("server", state), state === "answers"),
    versions.length === 0 ? t("live.none") : versions.map(({ version, state: of, golden }) => [
      pill(`${version} ${stateText(of)}${golden ? `, ${t(`golden.${golden}`)}` : ""}`, of === "AVAILABLE" && golden !== "wrong"), " "]),
  ]));
}

function arms({ arms: all }) {
  if (all.length === 0) return null;
  const part = ({ requests, failed }) => percent(requests ? failed / requests : 0);
  const ms = (seconds) => (seconds === null ? t("live.none") : milliseconds(seconds));
  return tableCard(t("live.arms"),
    [t("live.arm"), t("version"), t("live.requests"), t("live.armFailed"), t("live.share"), t("live.p50"), t("live.p99")],
    all.map((one) => [one.arm, one.version, count(one.requests), count(one.failed), part(one), ms(one.p50), ms(one.p99)]),
    [2, 3, 4, 5, 6]);
}

function rollout({ rollout: now }) {
  if (now === null) return null;
  return card(t("live.rollout"), facts([
    [t("live.phase"), now.phase],
    [t("live.stable"), now.stable],
    [t("live.canary"), now.canary === null ? null : `${now.canary}, ${number(now.percent)} %`],
    [t("live.shadow"), now.shadow],
    [t("live.verdict"), now.reason],
  ]));
}

function drift({ drift: now }) {
  if (now === null) return null;
  const most = now.columns.slice(0, MAX_COLUMNS); // sorted by PSI / limit, largest first
  return tableCard(t("live.drift", { rows: count(now.rows) }), [t("live.column"), t("live.verdict"), t("live.psi"), t("live.limit")],
    most.map(({ column, psi, limit, verdict }) => [
      column === "" ? t("table.probability") : column,
      pill(known("drift", verdict), verdict === "ok" || verdict === "too few rows"),
      psi === null ? t("live.none") : number(psi),
      number(limit),
    ]), [2, 3]);
}

function log({ log: now }) {
  if (now === null) return null;
  const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
  return card(t("live.log"), facts([
    [t("live.rows"), count(now.rows)],
    [t("live.dropped"), count(sum(now.dropped))],
    [t("live.size"), bytes(now.bytes)],
    [t("feedback.rows"), count(now.feedback.accepted ?? 0)],
  ]));
}
