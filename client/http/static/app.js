/* The page: views, routing, language and theme. */

import * as answer from "./answer.js";
import { Predictor } from "./predictor.js";
import { definitions } from "./charts.js";
import * as code from "./code.js";
import { debounce, h } from "./dom.js";
import { Explorer } from "./explorer.js";
import * as feedback from "./feedback.js";
import * as flips from "./flips.js";
import { t } from "./i18n.js";
import { Row } from "./row.js";
import * as predict from "./views/predict.js";
import * as whatif from "./views/whatif.js";

/* A view whose module is loaded when it is first opened. */
const onDemand = (id) => ({ id, load: () => import(`./views/${id}.js`) });

/* A view is a module with
     id         its fragment in the URL (#id); the string `tab.ID` is its title
     explores   whether it edits the row and shows the answer beside it
     mount      (root, page): fills its element when first shown; may return { show(), hide() },
                which are called when the view becomes visible or hidden
   `page` has
     model      the facts in the page's JSON (client/http/page_data.py)
     row        the Row to predict
     predictor  the Predictor, which holds the answer and dispatches "change"
     explorer   the Explorer, which computes the effect of single columns on the answer */
const VIEWS = [predict, whatif, onDemand("table"), onDemand("live"), onDemand("model")];

const facts = JSON.parse(document.getElementById("model").textContent);
const row = new Row(facts.columns);
const predictor = new Predictor(row, facts);
const page = { model: facts, row, predictor, explorer: new Explorer(facts, row, predictor) };
const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const side = h("aside", { id: "side", ariaLabel: t("answer") });
const mounted = new Map();
let current = null;

const explores = (view) => Boolean(view.explores) && facts.columns.length > 0;

async function open(view) {
  if (view === current) return;
  mounted.get(current)?.view?.hide?.();
  current = view;
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
  const entry = mounted.get(view);
  entry.loaded ??= mount(view, entry);
  await entry.loaded;
  if (current === view) entry.view?.show?.();
}

/* Fills a view's element. If its module cannot be loaded, the next visit retries. */
async function mount(view, entry) {
  const module = view.load ? await view.load().catch(() => null) : view;
  if (module === null) {
    entry.root.replaceChildren(h("p", { className: "notice", role: "alert" }, t("error.unreachable")));
    entry.loaded = null;
    return;
  }
  entry.root.replaceChildren();
  entry.view = module.mount(entry.root, page);
}

/* Longer links, such as those with a picture, may be truncated in transit. */
const MAX_LINK = 8000;

/* Returns the fragment for a view, with the row if it differs from the initial one. */
function hashOf(view) {
  const texts = new URLSearchParams(row.columns.map(({ name }) => [name, row.text(name)])).toString();
  return `#${view.id}${row.changed && texts.length <= MAX_LINK ? `?${texts}` : ""}`;
}

function route() {
  const [id, texts] = location.hash.slice(1).split(/\?(.*)/s);
  if (texts) row.set([...new URLSearchParams(texts)]);
  open(VIEWS.find((view) => view.id === id) ?? VIEWS[0]);
  updateUrl();
}

function updateUrl() {
  if (location.hash !== hashOf(current) && (location.hash !== "" || row.changed)) history.replaceState(null, "", hashOf(current));
}

/* The page describes one version; the ranges and metrics of another may differ. */
const notice = document.getElementById("notice");
predictor.addEventListener("change", () => {
  const { answer } = predictor.state;
  if (!answer || answer.version === facts.version || !notice.hidden) return;
  document.getElementById("version").textContent = answer.version;
  notice.replaceChildren(t("replaced", { version: answer.version }), " ", h("button", { type: "button", className: "small", onclick: () => location.reload() }, t("reload")));
  notice.hidden = false;
});

/* Remembers a choice, language or theme, for a year. */
const setCookie = (name, value) => {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`;
};

document.getElementById("language").addEventListener("change", (event) => {
  setCookie("language", event.target.value);
  updateUrl();
  const url = new URL(location.href);
  url.searchParams.delete("lang");
  if (url.href === location.href) location.reload();
  else location.replace(url);
});
document.getElementById("theme").addEventListener("change", (event) => {
  setCookie("theme", event.target.value);
  document.documentElement.dataset.theme = event.target.value;
});

tabs.append(...VIEWS.map((view) => h("li", null, h("a", { href: `#${view.id}` }, t(`tab.${view.id}`)))));
main.append(side);
document.body.append(definitions(facts.threshold ?? 0.5));
for (const panel of [answer, flips, code]) panel.mount(side, page);
const feedbackRoot = h("div", null);
document.getElementById("answer").after(feedbackRoot);
feedback.mount(feedbackRoot, page);
row.onChange(debounce(updateUrl, 300));
addEventListener("hashchange", route);
route();
predictor.predict();
