// Many photos: a table, a few requests at a time, waiting where the server is busy, and CSV files of what came.
import * as api from "./api.js";
import { answersCsv, errorsCsv } from "./csv.js";
import { byId, complain, make, save, say } from "./dom.js";
import * as thumbs from "./thumbs.js";
import { count, counted, duration, percent } from "./words.js";

const [area, text, bar, trouble, cancel, more, csv, errors, clear, rows, cut] = ["batch", "batch-text", "batch-progress", "batch-trouble",
  "batch-cancel", "batch-continue", "batch-csv", "batch-errors", "batch-clear", "batch-rows", "batch-more"].map(byId);
const AT_ONCE = 4; // requests; the server puts them together
const SHOWN = 1000; // rows; the CSV has all
const STOPS = new Set([0, 401, 404]); // statuses that every other file would meet as well

let batch = null, open = () => {};
export const onOpen = opened => { open = opened; };

const row = item => {
  const thumb = make("td", { className: "thumb" });
  const button = make("button", { type: "button", className: "link", title: "Show this photo alone" }, item.path);
  button.addEventListener("click", () => open(item));
  item.cells = [make("td", { className: "dim" }, "waiting"), make("td", { className: "right number" })];
  thumbs.watch(thumb, item.file);
  return make("tr", {}, thumb, make("th", { scope: "row" }, button), ...item.cells);
};

const write = item => {
  if (!item.cells) return;
  const [answer, confidence] = item.cells;
  answer.className = item.state === "failed" ? "bad" : item.state === "waiting" || item.state === "sent" ? "dim" : "";
  confidence.textContent = "";
  if (item.state !== "done") { answer.textContent = { waiting: "waiting", sent: "sent …", failed: item.failure?.message }[item.state]; return; }
  const { prediction, probability, unknown, labels } = item.answer;
  if (unknown) answer.replaceChildren(make("strong", {}, "none of these"), make("span", { className: "note" }, `closest: ${prediction || "none"}`));
  else answer.textContent = labels ? labels.join(", ") || "none of its classes" : prediction;
  confidence.textContent = percent(probability);
};

const state = () => (batch.left === 0 ? "done" : batch.flight ? "running" : "stopped");

const sum = () => {
  const { items, left, failed, unknown, began, spent, fresh } = batch;
  const done = items.length - left, parts = [`${count(done)} of ${counted(items.length, "photo")}`, `by ${batch.model.name}`];
  if (failed) parts.push(`${count(failed)} could not be used`);
  if (unknown) parts.push(`${count(unknown)} none of these`);
  if (batch.leftOut) parts.push(`${counted(batch.leftOut, "other file")} left out of the folder`);
  const seconds = (spent + (batch.flight ? performance.now() - began : 0)) / 1000;
  if (state() === "running" && batch.busyUntil > performance.now()) parts.push(`the server is busy, waiting ${duration((batch.busyUntil - performance.now()) / 1000)}`);
  else if (state() === "running" && fresh >= 4) parts.push(`about ${duration((seconds * left) / fresh)} left`);
  if (state() === "done") parts.push(`took ${duration(seconds)}`);
  if (state() === "stopped") parts.push("stopped");
  return parts.join(" · ");
};

let drawn = 0;
const tell = (now = false) => {
  if (now) { cancelAnimationFrame(drawn); drawn = 0; paint(); } else drawn ||= requestAnimationFrame(() => { drawn = 0; paint(); });
};
const paint = () => {
  if (!batch) return;
  const is = state();
  text.textContent = sum();
  bar.max = batch.items.length || 1;
  bar.value = batch.items.length - batch.left;
  cancel.hidden = is !== "running";
  more.hidden = is !== "stopped";
  clear.hidden = is === "running";
  csv.disabled = batch.items.length - batch.left - batch.failed === 0;
  errors.hidden = batch.failed === 0;
  area.setAttribute("aria-busy", String(is === "running"));
};

// A button that goes away hands the focus on, so that the keyboard does not begin anew at the top.
const handOver = (from, change, to) => {
  const focused = document.activeElement === from;
  change();
  if (focused) to().focus({ preventScroll: true });
};

const one = async (item, run) => {
  const { signal } = run.flight;
  for (;;) {
    const wait = run.busyUntil - performance.now();
    if (wait > 0) await api.rest(wait / 1000, signal);
    try {
      api.checkSize(item.file, run.limits);
      return { state: "done", answer: (await api.predict(run.model, item.file, signal)).prediction };
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      if (!error.passes) {
        if (STOPS.has(error.status)) throw error;
        return { state: "failed", failure: error };
      }
      // All wait: a little apart, so that they do not come back as one.
      run.busyUntil = Math.max(run.busyUntil, performance.now() + 1000 * (error.after ?? 1) + 250 * Math.random());
      tell();
    }
  }
};

const worker = async run => {
  while (run === batch && run.next < run.queue.length && !run.flight.signal.aborted) {
    const item = run.queue[run.next++];
    item.state = "sent";
    write(item);
    try {
      Object.assign(item, await one(item, run));
    } catch (error) {
      item.state = "waiting";
      write(item);
      run.flight.abort(error);
      throw error;
    }
    run.left--;
    run.fresh++;
    run.failed += item.state === "failed";
    run.unknown += item.answer?.unknown === true;
    write(item);
    if (run !== batch) return;
    tell();
    const quarter = Math.floor((4 * (run.items.length - run.left)) / run.items.length);
    if (run.left && quarter > run.said) { run.said = quarter; say(`${count(run.items.length - run.left)} of ${counted(run.items.length, "photo")} done.`); }
  }
};

const go = async () => {
  const run = batch;
  run.flight = new AbortController();
  run.queue = run.items.filter(item => item.state === "waiting");
  Object.assign(run, { next: 0, fresh: 0, spent: 0, busyUntil: 0, began: performance.now() });
  complain(trouble, null);
  tell(true);
  const ticking = setInterval(tell, 1000);
  const ends = await Promise.allSettled(Array.from({ length: AT_ONCE }, () => worker(run)));
  clearInterval(ticking);
  run.spent = performance.now() - run.began;
  run.flight = null;
  if (run !== batch) return;
  handOver(cancel, () => tell(true), () => (run.left ? more : csv.disabled ? clear : csv));
  const failure = ends.map(end => end.reason).find(reason => reason instanceof api.Failure);
  const broken = ends.map(end => end.reason).find(reason => reason && !(reason instanceof api.Failure) && reason.name !== "AbortError");
  if (broken) throw broken;
  if (failure) complain(trouble, failure);
  else say(run.left ? "Stopped." : `Done: ${sum()}.`);
};

export const start = (model, limits, { entries, leftOut }) => {
  stop();
  const items = entries.map(entry => ({ ...entry, state: "waiting", answer: null, failure: null, cells: null }));
  batch = { model, limits, items, leftOut, left: items.length, failed: 0, unknown: 0, said: 0, flight: null };
  rows.replaceChildren(...items.slice(0, SHOWN).map(row));
  cut.hidden = items.length <= SHOWN;
  cut.textContent = `The table shows the first ${count(SHOWN)}; the CSV has all ${count(items.length)}.`;
  area.hidden = false;
  area.scrollIntoView({ block: "start" });
  say(`${counted(items.length, "photo")}${leftOut ? `, ${counted(leftOut, "other file")} left out` : ""}.`);
  go();
};

const stop = () => {
  const run = batch;
  batch = null;
  run?.flight?.abort();
  thumbs.forget();
  rows.replaceChildren();
  complain(trouble, null);
};

cancel.addEventListener("click", () => batch.flight?.abort());
more.addEventListener("click", () => handOver(more, go, () => cancel));
clear.addEventListener("click", () => { stop(); area.hidden = true; byId("file").focus(); say("Cleared."); });
csv.addEventListener("click", () => save("predictions.csv",
  answersCsv(batch.items.filter(item => item.state === "done"), batch.model.tells_unknown), "text/csv;charset=utf-8"));
errors.addEventListener("click", () => save("predictions.skipped.csv",
  errorsCsv(batch.items.filter(item => item.state === "failed")), "text/csv;charset=utf-8"));
