/* Asks the service about the row whenever it changes: after a short pause, and the last one wins. */

import { ApiError, explain, predict } from "./api.js";
import { debounced } from "./dom.js";

const PAUSE_MS = 120;
const RETRY_SECONDS = 2;

/* The state of the answer:
     status   empty, faulty, loading, current, or failed
     answer   the last one: { texts, prediction, explanation, version, id, current }, or null
     faults   [[column, reason], ...]
     error    an ApiError, if failed; waiting: whether the question is repeated by itself */
export class Asking extends EventTarget {
  #row;
  #model;
  #controller = new AbortController();
  #retry;

  constructor(row, model) {
    super();
    this.#row = row;
    this.#model = model;
    this.state = { status: "empty", answer: null, faults: [], error: null, waiting: false };
    row.onChange(() => this.#changed());
    this.#askSoon = debounced(() => this.ask(), PAUSE_MS);
  }

  #askSoon;

  #update(changes) {
    this.state = { ...this.state, faults: [], error: null, waiting: false, ...changes };
    this.dispatchEvent(new Event("change"));
  }

  #changed() {
    this.#controller.abort();
    clearTimeout(this.#retry);
    this.#update({ status: "loading" });
    this.#askSoon();
  }

  /* Asks at once. */
  async ask() {
    this.#controller.abort();
    clearTimeout(this.#retry);
    if (this.#row.incomplete && !this.state.answer && !this.#row.changed) {
      this.#update({ status: "empty" });
      return;
    }
    const faults = this.#row.faults();
    if (faults.length > 0) {
      this.#update({ status: "faulty", faults });
      return;
    }
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    this.#update({ status: "loading" });
    try {
      const answer = await this.#answer(this.#row.values(), signal);
      if (!signal.aborted) this.#update({ status: "current", answer });
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
    }
  }

  /* Between the two questions the version may have been replaced; then both are asked again. */
  async #answer(values, signal, again = true) {
    const texts = new Map(this.#row.columns.map(({ name }) => [name, this.#row.text(name)]));
    const { prediction, version, id } = await predict(values, signal);
    try {
      const explanation = this.#model.explains ? await explain(this.#model.model, version, values, signal) : null;
      return { texts, values, prediction, explanation, version, id };
    } catch (error) {
      if (error.status !== 404 || !again) throw error;
      return this.#answer(values, signal, false);
    }
  }

  #failed(error) {
    if (!(error instanceof ApiError)) throw error;
    const column = this.#row.columns.find(({ name }) => error.message.startsWith(`instances[0].${name}: `));
    if (column) {
      const reason = error.message.slice(`instances[0].${column.name}: `.length);
      this.#update({ status: "faulty", faults: [[column.name, reason]] });
      return;
    }
    const waiting = [0, 429, 503, 504].includes(error.status);
    this.#update({ status: "failed", error, waiting });
    if (waiting) this.#retry = setTimeout(() => this.ask(), 1000 * (error.retryAfter ?? RETRY_SECONDS));
  }
}
