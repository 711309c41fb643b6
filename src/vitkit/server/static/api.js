// The server's HTTP interface: requests with the key, its one error form in words, waiting when it is busy.
import { bytes } from "./words.js";

const KEY = "vitkit-api-key";
const TITLES = {
  401: "This server asks for an API key.", 404: "This is not served here.", 408: "The photo arrived too slowly.",
  413: "The photo is too large.", 415: "This is not an image.", 422: "This file cannot be used.",
  429: "The server is busy.", 501: "This model cannot do that.", 503: "The server is not ready.", 504: "It took too long.",
};

export class Failure extends Error {
  constructor(status, code, message, title = null, after = null) {
    super(message);
    Object.assign(this, { status, code, title: title ?? TITLES[status] ?? "That did not work.", after });
  }

  // May the same request succeed later? `after` is how long the server asks to wait.
  get passes() { return this.status === 429 || (this.status === 503 && this.after !== null); }
  get again() { return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500 && this.status !== 501; }
}

// In this tab alone; where the browser forbids storage, until the page is left.
let held = null;
const key = () => { try { return sessionStorage.getItem(KEY); } catch { return held; } };
const setKey = value => {
  held = value;
  try { value === null ? sessionStorage.removeItem(KEY) : sessionStorage.setItem(KEY, value); } catch { /* held */ }
};

let ask = async () => null, asking = null;
export const onKey = asked => { ask = asked; };
const newKey = refused => asking ??= ask(refused).then(value => { setKey(value); return value !== null; }).finally(() => { asking = null; });

const seconds = header => {
  if (header === null) return null;
  const wait = /^\d+(\.\d+)?$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(wait) ? Math.min(Math.max(wait, 0), 600) : null;
};

const refusal = async response => {
  const after = seconds(response.headers.get("Retry-After"));
  const form = (await response.json().catch(() => null))?.error;
  const message = form?.message ?? `The answer was ${response.status} ${response.statusText}`.trim() + ", without a reason.";
  return new Failure(response.status, form?.code ?? "no_reason", message, null, after);
};

const unreachable = async file => {
  if (file && !(await file.slice(0, 1).arrayBuffer().then(() => true, () => false)))
    return new Failure(-1, "gone", `${file.name} can no longer be read: it was changed, moved or deleted. Choose it again.`, "The file is gone.");
  return new Failure(0, "unreachable", "It did not answer, or closed the connection. Look whether it still runs, and try again.", "The server cannot be reached.");
};

const request = async (path, { file = null, signal = undefined } = {}) => {
  for (;;) {
    const sent = key(), headers = { Accept: "application/json" };
    if (sent !== null) headers.Authorization = `Bearer ${sent}`;
    if (file) headers["Content-Type"] = "application/octet-stream";
    const began = performance.now();
    let response;
    try {
      response = await fetch(path, { method: file ? "POST" : "GET", body: file ?? undefined, headers, signal, cache: "no-store" });
    } catch (error) {
      throw error.name === "AbortError" ? error : await unreachable(file);
    }
    if (response.status === 401) {
      // Of several requests at once the first asks; those that were sent before its answer just go again.
      if (key() !== sent || await newKey(sent !== null)) continue;
      throw await refusal(response);
    }
    if (!response.ok) throw await refusal(response);
    let answer;
    try {
      answer = await response.json();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Failure(0, "cut", "Its answer was cut short or is not JSON. Try again.", "The answer cannot be read.");
    }
    return { answer, roundTrip: performance.now() - began };
  }
};

export const models = async () => (await request("v1/models")).answer;

const post = (model, verb, query, file, signal) =>
  request(`v1/models/${encodeURIComponent(model.name)}:${verb}?${new URLSearchParams(query)}`, { file, signal });

// Of a multi-label model as many as may be shown beside the classes found.
const top = model => model.task === "multi-label" ? Math.min(50, Math.max(5, model.classes?.length ?? 5)) : 5;

export const checkSize = (file, limits) => {
  const most = limits?.body_bytes;
  if (most && file.size > most)
    throw new Failure(413, "too_large", `${file.name} has ${bytes(file.size)}; this server takes at most ${bytes(most)} at once. Nothing was sent. Save the photo smaller, or let the server take more.`);
  if (file.size === 0) throw new Failure(422, "empty", `${file.name} is empty. Choose a file with an image in it.`);
};

export const predict = async (model, file, signal) => {
  const { answer, roundTrip } = await post(model, "predict", { top: top(model) }, file, signal);
  const prediction = answer.predictions[0];
  if (prediction.error) throw new Failure(422, prediction.error.code, prediction.error.message);
  return { ...answer, prediction, roundTrip };
};

export const explain = async (model, file, name, signal) =>
  (await post(model, "explain", name === null ? {} : { class: name }, file, signal)).answer;

export const rest = (wait, signal) => new Promise((resolve, reject) => {
  const stop = () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); };
  const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, 1000 * wait);
  signal?.addEventListener("abort", stop, { once: true });
});

// One request, again for as long as the server says it is busy, up to `tries`.
export const patient = async (call, signal, waiting, tries = 8) => {
  for (let turn = 1; ; turn++) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof Failure) || !error.passes || turn === tries) throw error;
      const wait = error.after ?? 1;
      waiting(Math.max(1, Math.ceil(wait)));
      await rest(wait, signal);
    }
  }
};
