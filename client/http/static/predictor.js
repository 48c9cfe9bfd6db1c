/* Predicts the row after each change, with a short delay; a new request aborts the previous one. */

import { ApiError, explain, predict } from "./api.js";
import { debounce } from "./dom.js";

const DELAY_MS = 120;

/* `state` has
     status   empty, invalid, loading, current or failed
     answer   the last one: { texts, values, prediction, explanation, version, id }, or null
     faults   invalid columns: [[column, reason], ...]
     error    an ApiError if failed; a transient one is retried */
export class Predictor extends EventTarget {
  #row;
  #model;
  #controller = new AbortController();
  #retry;

  constructor(row, model) {
    super();
    this.#row = row;
    this.#model = model;
    this.state = { status: "empty", answer: null, faults: [], error: null };
    row.onChange(() => this.#changed());
    this.#schedule = debounce(() => this.predict(), DELAY_MS);
  }

  #schedule;

  #update(changes) {
    this.state = { ...this.state, faults: [], error: null, ...changes };
    this.dispatchEvent(new Event("change"));
  }

  #changed() {
    this.#controller.abort();
    clearTimeout(this.#retry);
    this.#update({ status: "loading" });
    this.#schedule();
  }

  /* Predicts without delay. */
  async predict() {
    this.#controller.abort();
    clearTimeout(this.#retry);
    if (this.#row.incomplete && !this.state.answer && !this.#row.changed) {
      this.#update({ status: "empty" });
      return;
    }
    const faults = this.#row.faults();
    if (faults.length > 0) {
      this.#update({ status: "invalid", faults });
      return;
    }
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    this.#update({ status: "loading" });
    try {
      const answer = await this.#fetchAnswer(this.#row.values(), signal);
      if (!signal.aborted) this.#update({ status: "current", answer });
    } catch (error) {
      if (!signal.aborted) this.#handleError(error);
    }
  }

  /* If the version was replaced between the two requests, both are repeated once. */
  async #fetchAnswer(values, signal, canRetry = true) {
    const texts = new Map(this.#row.columns.map(({ name }) => [name, this.#row.text(name)]));
    const { prediction, version, id } = await predict(values, signal);
    try {
      const explanation = this.#model.explains ? await explain(this.#model.model, version, values, signal) : null;
      return { texts, values, prediction, explanation, version, id };
    } catch (error) {
      if (error.status !== 404 || !canRetry) throw error;
      return this.#fetchAnswer(values, signal, false);
    }
  }

  #handleError(error) {
    if (!(error instanceof ApiError)) throw error;
    const column = this.#row.columns.find(({ name }) => error.message.startsWith(`instances[0].${name}: `));
    if (column) {
      const reason = error.message.slice(`instances[0].${column.name}: `.length);
      this.#update({ status: "invalid", faults: [[column.name, reason]] });
      return;
    }
    this.#update({ status: "failed", error });
    if (error.isTransient) this.#retry = setTimeout(() => this.predict(), error.retryMs);
  }
}
