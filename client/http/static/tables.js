/* Tables: a file is sent unchanged, and the response is read in chunks. Neither is ever completely in
   the page's memory: the browser holds both, on disk if they are large. */

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
const MAX_ROWS = 10;
const MAX_ERRORS = 50;
const MAX_LABELS = 20;

/* Returns the request headers for a file by its suffix, null if it is not a table. */
export function headersOf(name) {
  const parts = name.toLowerCase().split(".");
  const gzipped = parts.at(-1) === "gz";
  const type = TYPES[parts.at(gzipped ? -2 : -1)];
  if (!type) return null;
  return { "Content-Type": type, ...(gzipped && { "Content-Encoding": "gzip" }) };
}

/* Sends a file and returns a Blob of CSV: the file's columns, then the predictions.

   Unlike fetch, XMLHttpRequest reports how much has been sent. The service reads only as fast as it
   predicts, so this is also the progress of predicting. Browsers read no response before they have
   sent the whole request.

   onProgress: called with "sending", "predicting" or "receiving", and the bytes so far */
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
      if (request.status === 200) resolve(request.response);
      else reject(errorOf(request.status, (await request.response.text()) || request.statusText));
    };
    request.onerror = () => reject(new ApiError("", 0));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/* Reads a response into a Tally. */
export async function readInto(blob, tally, onProgress, signal) {
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

/* Splits CSV that arrives in chunks into records; quoted cells may contain line breaks. */
class Records {
  #partialLine = "";
  #partialRecord = "";

  *feed(text) {
    const lines = (this.#partialLine + text).split("\n");
    this.#partialLine = lines.pop();
    for (const line of lines) {
      const record = this.#partialRecord + line;
      if (record.includes('"') && record.split('"').length % 2 === 0) {
        this.#partialRecord = `${record}\n`;
      } else {
        this.#partialRecord = "";
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

/* A summary of a response, of bounded size.

   rows, errors       numbers of rows and of rows with errors
   header, firstRows  column names, and cells of the first rows
   messages           the first error messages
   labels             row counts per label
   bins               row counts per probability bin; the last bin is for exactly 1 */
export class Tally {
  rows = 0;
  errors = 0;
  header = null;
  firstRows = [];
  messages = [];
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
    const needsAll = this.rows <= MAX_ROWS || record.includes('"');
    const [label, probability, error] = needsAll ? this.#fromCells(cellsOf(record)) : this.#fromEnd(record);
    if (this.rows <= MAX_ROWS) this.firstRows.push(cellsOf(record));
    if (error) {
      this.errors += 1;
      if (this.messages.length < MAX_ERRORS) this.messages.push(error);
      return;
    }
    if (probability) {
      // Rounding must not move probabilities such as 0.29 into the bin below.
      const bin = Math.floor(Number(probability) * BINS + 1e-9);
      if (bin >= 0) this.bins[Math.min(BINS, bin)] += 1;
    }
    if (label !== undefined && (this.labels.has(label) || this.labels.size < MAX_LABELS)) {
      this.labels.set(label, (this.labels.get(label) ?? 0) + 1);
    }
  }

  #fromCells(cells) {
    return this.#outputs.map((index) => cells[index]);
  }

  /* The same for a record without quotes; reading from the end avoids splitting most cells. */
  #fromEnd(record) {
    const indexes = this.#outputs.filter((index) => index >= 0);
    if (indexes.length === 0) return [];
    const cells = new Map();
    let end = record.length;
    for (let index = this.header.length - 1; index >= Math.min(...indexes); index -= 1) {
      const comma = record.lastIndexOf(",", end - 1);
      cells.set(index, record.slice(end > 0 ? comma + 1 : 0, end));
      end = comma;
    }
    return this.#outputs.map((index) => cells.get(index));
  }

  get hasProbabilities() {
    return this.#outputs?.[1] >= 0 && this.rows > this.errors;
  }

  /* Counts rows with at least a probability, which must be on the edge of a bin. */
  countAtLeast(threshold) {
    return this.bins.subarray(Math.round(threshold * BINS)).reduce((sum, rows) => sum + rows, 0);
  }
}
