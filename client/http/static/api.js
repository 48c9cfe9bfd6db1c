/* The page's requests, except tables. */

import { t } from "./i18n.js";

const RETRY_SECONDS = 2;

export class ApiError extends Error {
  /* status: 0 if the service is unreachable; retryAfter: seconds, or undefined. */
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.retryMs = 1000 * (retryAfter ?? RETRY_SECONDS);
    this.isTransient = [0, 429, 503, 504].includes(status);
  }
}

/* Returns the error of a response, with the message of the service or a proxy. */
export function errorOf(status, text, retryAfter) {
  let message = text;
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") message = error;
  } catch { /* a proxy's page */ }
  return new ApiError(message, status, /^\d+$/.test(retryAfter) ? +retryAfter : undefined);
}

/* Returns the message to show for an ApiError; other errors are bugs and are rethrown. */
export function messageOf(error) {
  if (!(error instanceof ApiError)) throw error;
  const key = { 0: "error.unreachable", 401: "error.key", 429: "error.busy" }[error.status];
  return key ? t(key) : error.message;
}

/* Sends a request and returns the response; throws an ApiError unless its status is 2xx. */
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

/* Parses the JSON of a response; a truncated body counts as an unreachable service. */
const readJson = (response) => response.json().catch((error) => {
  throw error.name === "AbortError" ? error : new ApiError("", 0);
});

const get = async (path) => readJson(await send(path));

const post = (path, body, signal, headers) => send(path, {
  method: "POST",
  body: JSON.stringify(body),
  // During a rollout, always use the stable version.
  headers: { "Content-Type": "application/json", "X-Model-Arm": "stable", ...headers },
  signal,
});

const modelPath = (model) => `/v1/models/${encodeURIComponent(model)}`;
const versionPath = (model, version) => `${modelPath(model)}/versions/${version}`;
/* Marks rows that no user entered, so that the service does not count them as traffic. */
const UNRECORDED = { "X-Prediction-Record": "no" };

export async function predict(values, signal) {
  const response = await post("/predict", { instances: [values] }, signal);
  const { predictions, version } = await readJson(response);
  return { prediction: predictions[0], version, id: response.headers.get("X-Prediction-ID") };
}

/* Returns a version's explanation of a row: { bias, contribution: { column: log-odds } }. */
export async function explain(model, version, values, signal) {
  const response = await post(`${versionPath(model, version)}:explain`, { instances: [values] }, signal);
  return (await readJson(response)).explanations[0];
}

/* rows: lists of values in column order */
export async function predictRows(rows, signal) {
  if (rows.length === 0) return [];
  const instances = rows[0].length === 1 ? rows.flat() : rows;
  return (await readJson(await post("/predict", { instances }, signal, UNRECORDED))).predictions;
}

/* Returns a version's probabilities for rows. Requests that name a version do not count as evidence
   in a rollout. */
export async function probabilitiesOf(model, version, columns, rows, signal) {
  const inputs = Object.fromEntries(columns.map(({ name }, index) => [name, rows.map((row) => row[index])]));
  const response = await post(`${versionPath(model, version)}:predict`, { inputs }, signal, UNRECORDED);
  const { outputs } = await readJson(response);
  if (!outputs?.probability?.every(Number.isFinite)) throw new ApiError(t("error.probability"), response.status);
  return outputs.probability;
}

export const sendFeedback = (id, label) => post("/feedback", { id, row: 0, label });

export const versions = async (model) => (await get(modelPath(model))).model_version_status;

/* The statistics that docs/client.md describes. */
export const stats = () => get("/stats");
