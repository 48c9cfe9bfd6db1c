/* Live statistics of the service. */

import { messageOf, stats as fetchStats } from "../api.js";
import { figure, line, scale } from "../charts.js";
import { h, s } from "../dom.js";
import { bytes, count, number, percent, stateText, t, time } from "../i18n.js";
import { card, facts, table } from "../parts.js";

export const id = "live";

const INTERVAL_MS = 2000;
/* Charts span at most five minutes; percentiles cover the last ten seconds. */
const SPANS_MINUTES = [1, 2, 5];
const SPAN_MS = 60_000 * SPANS_MINUTES.at(-1);
const WINDOW_MS = 10_000;
const MAX_COLUMNS = 30;
const WIDTH = 320;
const HEIGHT = 96;
const MAX_TABLE_ROWS = 12;

export function mount(root) {
  const status = h("p", { className: "soft", role: "status" });
  const error = h("p", { className: "notice", role: "alert", hidden: true });
  const charts = h("div", { className: "charts" });
  const details = h("div", { className: "details" });
  root.append(h("h2", { className: "hidden" }, t("tab.live")), status, error, charts, details);
  let points = [];
  let timer = null;
  let latest = null;
  let isShown = false;

  async function poll() {
    const request = fetchStats();
    latest = request;
    try {
      const stats = await request;
      // A view that was hidden and shown has started another poll.
      if (request !== latest) return;
      points = append(points, stats);
      show(stats);
      error.hidden = true;
    } catch (problem) {
      if (request !== latest) return;
      error.textContent = messageOf(problem);
      error.hidden = false;
    }
    root.classList.toggle("stale", !error.hidden);
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    timer = isShown && !document.hidden ? setTimeout(poll, INTERVAL_MS) : null;
    if (!timer) status.textContent = t("live.paused");
  }

  /* Polls at once if the view has become visible. */
  function resume() {
    if (isShown && !document.hidden && timer === null) poll();
    else schedule();
  }

  function show(stats) {
    status.textContent = t("live.time", { time: time(new Date(stats.time)) });
    charts.replaceChildren(...series().map((item) => chart(item, points)));
    details.replaceChildren(...[servers(stats), arms(stats), rollout(stats), drift(stats), log(stats)].filter(Boolean));
  }

  document.addEventListener("visibilitychange", resume);
  return {
    show() { isShown = true; resume(); },
    hide() { isShown = false; schedule(); },
  };
}

/* Appends a response, with the changes since the previous one, and drops old points. */
function append(points, stats) {
  const at = Date.parse(stats.time);
  const last = points.at(-1);
  // A restart resets all counters. After a pause, a difference would cover too long a time.
  if (last && (stats.requests.total < last.stats.requests.total || at < last.at)) return [{ at, stats }];
  const earlier = points.find((point) => point.at >= at - WINDOW_MS) ?? last;
  const values = last && at > last.at && at - last.at < 3 * INTERVAL_MS ? changes(last, earlier, { at, stats }) : null;
  return [...points.filter((point) => point.at > at - SPAN_MS), { at, stats, values }];
}

function changes(last, earlier, now) {
  const seconds = (now.at - last.at) / 1000;
  const rate = (counter) => (counter(now.stats) - counter(last.stats)) / seconds;
  const refused = ({ requests }) => Object.entries(requests.statuses)
    .reduce((sum, [status, total]) => sum + (status.startsWith("4") ? total : 0), 0);
  const { bounds, counts: totals } = now.stats.requests.seconds;
  const counts = totals.map((total, index) => total - (earlier.stats.requests.seconds.counts[index] ?? 0));
  const quantile = (q) => quantileOf(bounds, counts, q);
  return {
    requests: rate((stats) => stats.requests.total),
    rows: rate((stats) => stats.calls.rows),
    p50: quantile(0.5),
    p99: quantile(0.99),
    errors: rate((stats) => stats.requests.errors),
    refused: rate(refused),
    waiting: now.stats.queue.waiting,
    // The page's own request is in flight, too.
    inFlight: Math.max(0, now.stats.requests.in_flight - 1),
  };
}

/* Interpolates a quantile within its bucket; null without observations. */
export function quantileOf(bounds, counts, q) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  if (total === 0) return null;
  let before = 0;
  for (const [index, bound] of bounds.entries()) {
    if (before + counts[index] >= q * total) {
      const lower = index > 0 ? bounds[index - 1] : 0;
      return lower + ((bound - lower) * (q * total - before)) / counts[index];
    }
    before += counts[index];
  }
  return bounds.at(-1);
}

const threeDigits = (value) => number(Number(value.toPrecision(3)));
const milliseconds = (seconds) => t("live.ms", { number: threeDigits(1000 * seconds) });
const perSecond = (value) => t("live.per", { number: threeDigits(value) });

/* The charts, with two lines each. */
const series = () => [
  { title: t("live.rate"), text: perSecond, lines: [["requests", t("live.requests")], ["rows", t("live.rows")]] },
  { title: t("live.latency"), text: milliseconds, lines: [["p50", t("live.p50")], ["p99", t("live.p99")]] },
  { title: t("live.errors"), text: perSecond, lines: [["errors", t("live.failed")], ["refused", t("live.refused")]] },
  { title: t("live.queue"), text: count, lines: [["waiting", t("live.waiting")], ["inFlight", t("live.inFlight")]] },
];

function chart({ title, text, lines }, points) {
  const format = (value) => (value === null || value === undefined ? t("live.none") : text(value));
  const now = points.at(-1).values;
  const top = Math.max(...lines.flatMap(([name]) => points.map(({ values }) => values?.[name] ?? 0)));
  const end = points.at(-1).at;
  const minutes = SPANS_MINUTES.find((span) => end - points[0].at <= 60_000 * span) ?? SPANS_MINUTES.at(-1);
  const x = scale([end - 60_000 * minutes, end], [0, WIDTH]);
  const y = scale([0, top || 1], [HEIGHT, 6]);
  const sentence = lines.map(([name, label]) => t("live.sentence", { label, now: format(now?.[name]), peak: format(Math.max(...points.map(({ values }) => values?.[name] ?? 0))) })).join(" ");
  const step = Math.ceil(points.length / MAX_TABLE_ROWS);
  return card(title,
    h("dl", { className: "now" }, lines.map(([name, label], index) =>
      h("div", { className: index === 0 ? "high" : "low" }, h("dt", null, label), h("dd", null, format(now?.[name]))))),
    figure(sentence, WIDTH, HEIGHT + 1, [
      s("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
      lines.map(([name], index) => segments(points, name).map((segment) =>
        line(segment.map(({ at, values }) => [x(at), y(values[name])]), index === 0 ? "line high" : "line low"))),
    ], {
      stretched: true,
      head: [t("live.at"), ...lines.map(([, label]) => label)],
      rows: points.filter(({ values }, index) => values && (points.length - 1 - index) % step === 0)
        .map(({ at, values }) => [time(new Date(at)), ...lines.map(([name]) => format(values[name]))]),
    }),
    h("p", { className: "ends plain", ariaHidden: "true" }, h("span", null, t("live.ago", { minutes })), h("span", null, t("live.peak", { number: format(top) }))));
}

/* Splits points into runs that have a value; a pause leaves a gap. */
function segments(points, name) {
  const runs = [[]];
  for (const point of points) {
    if ((point.values?.[name] ?? null) === null) runs.push([]);
    else runs.at(-1).push(point);
  }
  return runs.filter((run) => run.length > 0);
}

const pill = (text, isGood) => h("span", { className: `pill${isGood ? "" : " bad"}` }, text);

const stateLabel = (prefix, name) => t(`${prefix}.${name.replaceAll(" ", "")}`);

const tableCard = (title, head, rows, numeric) => card(title, table(title, head, rows, numeric));

function servers({ servers: all }) {
  return tableCard(t("live.servers"), [t("live.server"), t("live.state"), t("live.versions")], all.map(({ address, state, versions }) => [
    address,
    pill(stateLabel("server", state), state === "answers"),
    versions.length === 0 ? t("live.none") : versions.map(({ version, state: versionState, golden }) => [
      pill(`${version} ${stateText(versionState)}${golden ? `, ${t(`golden.${golden}`)}` : ""}`, versionState === "AVAILABLE" && golden !== "wrong"), " "]),
  ]));
}

function arms({ arms: all }) {
  if (all.length === 0) return null;
  const failureRate = ({ requests, failed }) => percent(requests ? failed / requests : 0);
  const ms = (seconds) => (seconds === null ? t("live.none") : milliseconds(seconds));
  return tableCard(t("live.arms"),
    [t("live.arm"), t("version"), t("live.requests"), t("live.armFailed"), t("live.failureRate"), t("live.p50"), t("live.p99")],
    all.map((arm) => [arm.arm, arm.version, count(arm.requests), count(arm.failed), failureRate(arm), ms(arm.p50), ms(arm.p99)]),
    [2, 3, 4, 5, 6]);
}

function rollout({ rollout: state }) {
  if (state === null) return null;
  return card(t("live.rollout"), facts([
    [t("live.phase"), state.phase],
    [t("live.stable"), state.stable],
    [t("live.canary"), state.canary === null ? null : `${state.canary}, ${number(state.percent)}%`],
    [t("live.shadow"), state.shadow],
    [t("live.reason"), state.reason],
  ]));
}

function drift({ drift: state }) {
  if (state === null) return null;
  const columns = state.columns.slice(0, MAX_COLUMNS); // sorted by PSI / limit, largest first
  return tableCard(t("live.drift", { rows: count(state.rows) }), [t("live.column"), t("live.verdict"), t("live.psi"), t("live.limit")],
    columns.map(({ column, psi, limit, verdict }) => [
      column === "" ? t("table.probability") : column,
      pill(stateLabel("drift", verdict), verdict === "ok" || verdict === "too few rows"),
      psi === null ? t("live.none") : number(psi),
      number(limit),
    ]), [2, 3]);
}

function log({ log: state }) {
  if (state === null) return null;
  const sum = (counts) => Object.values(counts).reduce((total, n) => total + n, 0);
  return card(t("live.log"), facts([
    [t("live.rows"), count(state.rows)],
    [t("live.dropped"), count(sum(state.dropped))],
    [t("live.size"), bytes(state.bytes)],
    [t("feedback.rows"), count(state.feedback.accepted ?? 0)],
  ]));
}
