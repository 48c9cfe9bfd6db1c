/* The page: its views, which of them the URL names, language and theme. */

import * as answer from "./answer.js";
import { Asking } from "./asking.js";
import { definitions } from "./charts.js";
import * as code from "./code.js";
import { debounced, h } from "./dom.js";
import { Exploring } from "./exploring.js";
import * as feedback from "./feedback.js";
import * as flips from "./flips.js";
import { t } from "./i18n.js";
import { Row } from "./row.js";
import * as predict from "./views/predict.js";
import * as whatif from "./views/whatif.js";

/* A view that is loaded when it is first opened: the page begins without it. */
const onDemand = (id) => ({ id, load: () => import(`./views/${id}.js`) });

/* A view is a module with
     id        its place in the URL (#id); the string `tab.ID` is its title
     explores  whether it changes the row, and the answer stands beside it
     mount     (root, page): fills its element when it is first shown, and may return
               { show(), hide() }, called whenever it comes into sight and goes out of it
   and `page` has
     model     the facts in the page's JSON (client/http/page_data.py)
     row       the row that is asked about, a Row
     asking    asks, and has the state of the answer: an Asking, with the event "change"
     exploring computes what single columns do to the answer: an Exploring */
const VIEWS = [predict, whatif, onDemand("table"), onDemand("live"), onDemand("model")];

const facts = JSON.parse(document.getElementById("model").textContent);
const row = new Row(facts.columns);
const asking = new Asking(row, facts);
const page = { model: facts, row, asking, exploring: new Exploring(facts, row, asking) };
const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const side = h("aside", { id: "side", ariaLabel: t("answer") });
const mounted = new Map();
let shown = null;

const explores = (view) => Boolean(view.explores) && facts.columns.length > 0;

async function open(view) {
  if (view === shown) return;
  mounted.get(shown)?.view?.hide?.();
  shown = view;
  if (!mounted.has(view)) {
    const root = h("section", { id: `view-${view.id}`, ariaLabel: t(`tab.${view.id}`) });
    main.append(root);
    mounted.set(view, { root, view: null });
  }
  main.classList.toggle("explores", explores(view));
  side.hidden = !explores(view);
  for (const [other, { root }] of mounted) root.hidden = other !== view;
  for (const link of tabs.querySelectorAll("a")) {
    if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const place = mounted.get(view);
  place.loaded ??= mount(view, place);
  await place.loaded;
  if (shown === view) place.view?.show?.();
}

/* Fills a view's element; if its module cannot be loaded, the next visit tries again. */
async function mount(view, place) {
  const module = view.load ? await view.load().catch(() => null) : view;
  if (module === null) {
    place.root.replaceChildren(h("p", { className: "notice", role: "alert" }, t("error.away")));
    place.loaded = null;
    return;
  }
  place.root.replaceChildren();
  place.view = module.mount(place.root, page);
}

/* Longer links, such as those with a picture, are cut on their way. */
const MAX_LINK = 8000;

/* The URL names the view, and the row once it is not the one that the page starts with. */
function hashOf(view) {
  const texts = new URLSearchParams(row.columns.map(({ name }) => [name, row.text(name)])).toString();
  return `#${view.id}${row.changed && texts.length <= MAX_LINK ? `?${texts}` : ""}`;
}

function route() {
  const [id, texts] = location.hash.slice(1).split(/\?(.*)/s);
  if (texts) row.set([...new URLSearchParams(texts)]);
  open(VIEWS.find((view) => view.id === id) ?? VIEWS[0]);
  keepInUrl();
}

function keepInUrl() {
  if (location.hash !== hashOf(shown) && (location.hash !== "" || row.changed)) history.replaceState(null, "", hashOf(shown));
}

/* A page describes one version; when another one answers, its ranges and metrics may differ. */
const notice = document.getElementById("notice");
asking.addEventListener("change", () => {
  const { answer } = asking.state;
  if (!answer || answer.version === facts.version || !notice.hidden) return;
  document.getElementById("version").textContent = answer.version;
  notice.replaceChildren(t("replaced", { version: answer.version }), " ", h("button", { type: "button", className: "small", onclick: () => location.reload() }, t("reload")));
  notice.hidden = false;
});

/* For a year; only language and theme are kept. */
const keep = (name, value) => {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`;
};

document.getElementById("language").addEventListener("change", (event) => {
  keep("language", event.target.value);
  keepInUrl();
  const url = new URL(location.href);
  url.searchParams.delete("lang");
  if (url.href === location.href) location.reload();
  else location.replace(url);
});
document.getElementById("theme").addEventListener("change", (event) => {
  keep("theme", event.target.value);
  document.documentElement.dataset.theme = event.target.value;
});

tabs.append(...VIEWS.map((view) => h("li", null, h("a", { href: `#${view.id}` }, t(`tab.${view.id}`)))));
main.append(side);
document.body.append(definitions(facts.threshold ?? 0.5));
for (const part of [answer, flips, code]) part.mount(side, page);
const below = h("div", null);
document.getElementById("answer").after(below);
feedback.mount(below, page);
row.onChange(debounced(keepInUrl, 300));
addEventListener("hashchange", route);
route();
asking.ask();
