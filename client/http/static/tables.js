/* Tables: a file goes to the service as it is, and its answer is read in pieces. Neither is ever in
   the page's memory as a whole: the browser keeps the file and the answer, large ones on its disk. */

import { ApiError, errorOf } from "./api.js";

const TYPES = {
  csv: "text/csv",
  txt: "text/csv",
  tsv: "text/tab-separated-values",
  tab: "text/tab-separated-values",
  ndjson: "application/x-ndjson",
  jsonl: "application/x-ndjson",
  arrow: "application/vnd.apache.arrow.stream",
  arrows: "application/vnd.apache.arrow.stream",
};
export const BINS = 1000;
const FIRST_ROWS = 10;
const FIRST_ERRORS = 50;
const MAX_LABELS = 20;

/* The headers for a file by the end of its name, null if it is not a table. */
export function headersOf(name) {
  const parts = name.toLowerCase().split(".");
  const gzipped = parts.at(-1) === "gz";
  const type = TYPES[parts.at(gzipped ? -2 : -1)];
  if (!type) return null;
  return { "Content-Type": type, ...(gzipped && { "Content-Encoding": "gzip" }) };
}

/* Sends a file, and returns the answer as a Blob of CSV: the file's columns, then the predictions.

   XMLHttpRequest reports how much has been sent, which fetch does not; the service reads only as
   fast as it predicts, so that is how much has been predicted, too. CSV comes when all rows are
   predicted: browsers do not read an answer before they have sent the whole request.

   onProgress: called with "sending", "predicting" or "receiving", and the bytes so far
   signal: aborts */
export function sendTable(file, headers, query, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/predict?${query}`);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.setRequestHeader("Accept", "text/csv");
    request.setRequestHeader("X-Model-Arm", "stable");
    request.responseType = "blob";
    request.upload.onprogress = ({ loaded }) => onProgress("sending", loaded);
    request.upload.onload = () => onProgress("predicting", file.size);
    request.onprogress = ({ loaded }) => onProgress("receiving", loaded);
    request.onload = async () => {
      if (request.status === 200) {
        resolve(request.response);
        return;
      }
      reject(errorOf(request.status, (await request.response.text()) || request.statusText));
    };
    request.onerror = () => reject(new ApiError("", 0));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/* Reads an answer, and counts it in a Tally. */
export async function count(blob, tally, onProgress, signal) {
  const reader = blob.stream().pipeThrough(new TextDecoderStream()).getReader();
  const records = new Records();
  for (;;) {
    const { done, value } = await reader.read();
    signal.throwIfAborted();
    if (done) break;
    for (const record of records.feed(value)) tally.add(record);
    onProgress("counting", tally.rows);
  }
}

/* The records of CSV that arrives in pieces; a quoted cell may hold line breaks. */
class Records {
  #rest = "";
  #open = "";

  *feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) {
      const record = this.#open + line;
      if (record.includes('"') && record.split('"').length % 2 === 0) {
        this.#open = `${record}\n`;
      } else {
        this.#open = "";
        yield record;
      }
    }
  }
}

function cellsOf(record) {
  if (!record.includes('"')) return record.split(",");
  return [...`,${record}`.matchAll(/,(?:"((?:[^"]|"")*)"|([^,]*))/g)]
    .map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);
}

/* A summary of an answer; its size does not grow with the answer.

   rows, errors   numbers of rows
   header, first  the names, and the cells of the first rows
   faults         errors of the first rows that have one, as texts
   labels         number of rows by label
   bins           number of rows by probability, in a thousand bins and one for exactly 1 */
export class Tally {
  rows = 0;
  errors = 0;
  header = null;
  first = [];
  faults = [];
  labels = new Map();
  bins = new Uint32Array(BINS + 1);
  #outputs;

  add(record) {
    if (this.header === null) {
      this.header = cellsOf(record);
      this.#outputs = ["label", "probability", "error"].map((name) => this.header.indexOf(name));
      return;
    }
    this.rows += 1;
    const needsAll = this.rows <= FIRST_ROWS || record.includes('"');
    const [label, probability, error] = needsAll ? this.#picked(cellsOf(record)) : this.#tail(record);
    if (this.rows <= FIRST_ROWS) this.first.push(cellsOf(record));
    if (error) {
      this.errors += 1;
      if (this.faults.length < FIRST_ERRORS) this.faults.push(error);
      return;
    }
    if (probability) {
      // Decimal probabilities such as 0.29 must not fall below their own bin.
      const bin = Math.floor(Number(probability) * BINS + 1e-9);
      if (bin >= 0) this.bins[Math.min(BINS, bin)] += 1;
    }
    if (label !== undefined && (this.labels.has(label) || this.labels.size < MAX_LABELS)) {
      this.labels.set(label, (this.labels.get(label) ?? 0) + 1);
    }
  }

  #picked(cells) {
    return this.#outputs.map((place) => cells[place]);
  }

  /* The same for a record without quotes, read from its end, so that most cells need not be split. */
  #tail(record) {
    const places = this.#outputs.filter((place) => place >= 0);
    if (places.length === 0) return [];
    const found = new Map();
    let end = record.length;
    for (let place = this.header.length - 1; place >= Math.min(...places); place -= 1) {
      const comma = record.lastIndexOf(",", end - 1);
      found.set(place, record.slice(end > 0 ? comma + 1 : 0, end));
      end = comma;
    }
    return this.#outputs.map((place) => found.get(place));
  }

  /* Whether the answer has probabilities. */
  get hasProbabilities() {
    return this.#outputs?.[1] >= 0 && this.rows > this.errors;
  }

  /* The number of rows whose probability is at least a threshold in steps of a bin. */
  atLeast(threshold) {
    return this.bins.subarray(Math.round(threshold * BINS)).reduce((sum, one) => sum + one, 0);
  }
}
