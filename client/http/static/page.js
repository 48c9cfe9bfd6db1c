"use strict";

const SHOWN_CONTRIBUTIONS = 10;

const element = (id) => document.getElementById(id);
/* What the page knows of the model. It is not asked of the form: that has its fields, which are
   called what the model's columns are called, in place of its own properties of the same name. */
const model = element("result")?.dataset;
const fields = [...document.querySelectorAll("[data-type]")];
const show = (id, visible) => { element(id).hidden = !visible; };

class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const reply = await response.json();
  if (!response.ok) throw new RequestError(reply.error, response.status);
  return reply;
}

/* JavaScript's numbers have 53 bits, integers of a table up to 64: so they go as their digits. */
function integerOf(text) {
  if (!/^-?\d+$/.test(text)) return undefined;
  return JSON.rawJSON ? JSON.rawJSON(BigInt(text)) : Number(text);
}

function numberOf(text) {
  const number = Number(text.replace(",", "."));
  return text !== "" && Number.isFinite(number) ? number : undefined;
}

/* Dates travel as text; their range is in days since 1970. */
function dayOf(text) {
  const day = Date.parse(text.replace(" ", "T")) / 86_400_000;
  return Number.isFinite(day) ? day : undefined;
}

const readers = {
  text: (text) => text,
  date: (text) => text || undefined,
  boolean: (text) => text === "true",
  integer: integerOf,
  number: numberOf,
};
const mayBeMissing = (field) => field.dataset.missing !== undefined;

/* A number that cannot be read is sent as the text it is, so that the server names the column. */
function valueOf(field) {
  const { type } = field.dataset;
  const text = type === "text" ? field.value : field.value.trim();
  const value = text === "" && mayBeMissing(field) ? null : readers[type](text);
  field.classList.toggle("wrong", value === undefined);
  return value === undefined ? text : value;
}

function readRow() {
  const columns = JSON.parse(model.columns);
  return Object.fromEntries(fields.map((field, index) => [columns[index], valueOf(field)]));
}

/* Of such numbers the model has seen none, so nobody knows how good its answer is. */
function showOutside() {
  const outside = fields.filter((field) => {
    const [least, greatest] = JSON.parse(field.dataset.range ?? "[]");
    const number = (field.dataset.type === "date" ? dayOf : numberOf)(field.value.trim());
    return number < least || number > greatest;
  });
  for (const field of fields) field.classList.toggle("outside", outside.includes(field));
  const titles = outside.map((field) => field.closest("label").querySelector("span").textContent);
  element("outside").textContent = `Outside what the model was trained on: ${titles.join(", ")}`;
  show("outside", outside.length > 0);
}

async function predictAndExplain(row) {
  const { predictions, version } = await post("/predict", { instances: [row] });
  if (!JSON.parse(model.explains)) return { prediction: predictions[0], version };
  const path = `/v1/models/${encodeURIComponent(model.model)}/versions/${version}:predict`;
  const explanation = await post(path, { signature_name: "explain", instances: [row] });
  return { prediction: predictions[0], version, explanation: explanation.predictions[0] };
}

/* Between the two questions the version may have been replaced; then both are asked again. */
async function ask(row) {
  try {
    return await predictAndExplain(row);
  } catch (error) {
    if (error.status !== 404) throw error;
    return predictAndExplain(row);
  }
}

function showPrediction(prediction) {
  const probability = prediction.probability;
  const isProbability = typeof probability === "number" && model.classes !== undefined;
  show("scale", isProbability);
  show("outputs", !isProbability);
  if (isProbability) {
    const [class0, class1] = JSON.parse(model.classes);
    element("label").textContent = prediction.label;
    element("bar").style.width = `${100 * probability}%`;
    element("class-0").textContent = class0;
    element("class-1").textContent = class1;
    element("percent").textContent = `${(100 * probability).toFixed(1)} % ${class1}`;
    return;
  }
  element("label").textContent = "";
  const outputs = typeof prediction === "object" ? prediction : { output: prediction };
  element("outputs").replaceChildren(
    ...Object.entries(outputs).flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const definition = document.createElement("dd");
      term.textContent = name;
      definition.textContent = JSON.stringify(value);
      return [term, definition];
    }),
  );
}

const large = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 2 });

function signed(share) {
  const size = Math.abs(share);
  const text = size < 100 ? size.toFixed(2) : size < 1e5 ? size.toFixed(0) : large.format(size);
  return Number(text) === 0 ? text : (share < 0 ? "−" : "+") + text;
}

function contributionItem(name, share, largest) {
  const item = document.createElement("li");
  const title = document.createElement("span");
  const track = document.createElement("span");
  const bar = document.createElement("i");
  const number = document.createElement("b");
  title.textContent = name.replaceAll("_", " ");
  track.className = `track ${share < 0 ? "down" : "up"}`;
  bar.style.width = `${(100 * Math.abs(share)) / largest}%`;
  number.textContent = signed(share);
  track.append(bar);
  item.append(title, track, number);
  return item;
}

function showExplanation(explanation) {
  show("explanation", explanation !== undefined);
  if (explanation === undefined) return;
  const columns = JSON.parse(model.columns);
  const [class0, class1] = JSON.parse(model.classes);
  element("sides").textContent = `← ${class0} · ${class1} →`;
  const shares = explanation.contribution
    .map((share, index) => [columns[index], share])
    .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const top = [
    ...shares.slice(0, SHOWN_CONTRIBUTIONS),
    ["every row's start (bias)", explanation.bias],
  ];
  const rest = shares.slice(SHOWN_CONTRIBUTIONS);
  if (rest.length > 0) {
    const sum = rest.reduce((total, [, share]) => total + share, 0);
    top.splice(-1, 0, [`the other ${rest.length} columns`, sum]);
  }
  const largest = Math.max(...top.map(([, share]) => Math.abs(share)), 1e-9);
  element("contributions").replaceChildren(
    ...top.map(([name, share]) => contributionItem(name, share, largest)),
  );
}

function fillIn(example) {
  for (const field of fields) {
    const values = JSON.parse(field.dataset.examples);
    field.value = values[example] ?? values[0];
  }
  predictAndShow();
}

async function predict() {
  const button = document.querySelector("form button");
  button.disabled = true;
  try {
    const { prediction, version, explanation } = await ask(readRow());
    element("version").textContent = version;
    showPrediction(prediction);
    showOutside();
    showExplanation(explanation);
    show("result", true);
    show("error", false);
  } catch (error) {
    element("error").textContent = error.message;
    show("error", true);
    show("result", false);
  } finally {
    button.disabled = false;
  }
}

/* On a phone the answer is above the fields, so it is brought to where it can be seen. */
async function predictAndShow() {
  await predict();
  const shown = element("result").hidden ? "error" : "label";
  element(shown).scrollIntoView({ block: "nearest" });
}

if (model) {
  document.addEventListener("submit", (event) => {
    event.preventDefault();
    predictAndShow();
  });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => fillIn(Number(button.dataset.example)));
  }
  if (fields.every((field) => field.value !== "" || mayBeMissing(field))) predict();
}

