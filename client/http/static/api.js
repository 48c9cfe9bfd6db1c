/* Every call of the page to the service. */

import { t } from "./i18n.js";

export class ApiError extends Error {
  /* status: 0 if the service cannot be reached; retryAfter: seconds, if the service says. */
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/* The error of a response: the service's own words, or a proxy's. */
export function errorOf(status, text, retryAfter) {
  let message = text;
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") message = error;
  } catch { /* a proxy's page */ }
  return new ApiError(message, status, Number(retryAfter) || undefined);
}

/* The message to show for an error. Others than ApiError are bugs of the page, and rethrown. */
export function messageOf(error) {
  if (!(error instanceof ApiError)) throw error;
  const known = { 0: "error.away", 401: "error.key", 429: "error.busy" }[error.status];
  return known ? t(known) : error.message;
}

/* Sends a request, and returns the response if its status is 2xx. `options.signal` aborts it. */
export async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("", 0);
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  throw errorOf(response.status, text || response.statusText, response.headers.get("Retry-After"));
}

/* The JSON of a response. If it is cut off, the service counts as unreachable. */
const contentOf = (response) => response.json().catch((error) => {
  throw error.name === "AbortError" ? error : new ApiError("", 0);
});

const get = async (path) => contentOf(await send(path));

const post = (path, body, signal, headers) => send(path, {
  method: "POST",
  body: JSON.stringify(body),
  // During a rollout the page stays with one version, the stable one.
  headers: { "Content-Type": "application/json", "X-Model-Arm": "stable", ...headers },
  signal,
});

const modelPath = (model) => `/v1/models/${encodeURIComponent(model)}`;
const versionPath = (model, version) => `${modelPath(model)}/versions/${version}`;
/* For rows that no user asked about: the service does not count them as traffic. */
const UNRECORDED = { "X-Prediction-Record": "no" };

/* Predicts a row. */
export async function predict(values, signal) {
  const response = await post("/predict", { instances: [values] }, signal);
  const { predictions, version } = await contentOf(response);
  return { prediction: predictions[0], version, id: response.headers.get("X-Prediction-ID") };
}

/* Explains a row: { bias, contribution: { column: share } }, of the version that predicted. */
export async function explain(model, version, values, signal) {
  const response = await post(`${versionPath(model, version)}:explain`, { instances: [values] }, signal);
  return (await contentOf(response)).explanations[0];
}

/* Predicts many rows, each a list of values in the order of the columns, in one request. */
export async function predictRows(rows, signal) {
  if (rows.length === 0) return [];
  const instances = rows[0].length === 1 ? rows.flat() : rows;
  return (await contentOf(await post("/predict", { instances }, signal, UNRECORDED))).predictions;
}

/* Returns the probabilities of many rows by a version. A request that names a version does not count
   as evidence in a rollout. */
export async function probabilitiesOf(model, version, columns, rows, signal) {
  const inputs = Object.fromEntries(columns.map(({ name }, place) => [name, rows.map((row) => row[place])]));
  const response = await post(`${versionPath(model, version)}:predict`, { inputs }, signal, UNRECORDED);
  const { outputs } = await contentOf(response);
  if (!outputs?.probability?.every(Number.isFinite)) throw new ApiError(t("error.probability"), response.status);
  return outputs.probability;
}

/* Sends the correct label for the prediction with this id. */
export const sendFeedback = (id, label) => post("/feedback", { id, row: 0, label });

/* The versions of a model with their states. */
export const versions = async (model) => (await get(modelPath(model))).model_version_status;

/* The service's own numbers; see docs/client.md. */
export const stats = () => get("/stats");
