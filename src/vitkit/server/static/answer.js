// What the server answered, in words and bars; nothing is claimed that the model does not know.
import { make } from "./dom.js";
import { milliseconds, percent } from "./words.js";

const bar = ({ class: name, probability }, mark = "") => {
  const fill = make("i");
  fill.style.width = `${(100 * probability).toFixed(2)}%`;
  return make("li", mark ? { className: mark } : {},
    make("span", { className: "name" }, name), mark === "found" ? make("span", { className: "gone" }, ", found") : null,
    make("span", { className: "figure", title: String(probability) }, percent(probability)),
    make("span", { className: "track", "aria-hidden": "true" }, fill));
};

// The headline: what a person came to know. `said` is the same for screen readers.
const headline = ({ prediction, probability, unknown, labels, top }) => {
  const closest = top[0]?.class;
  if (unknown) return {
    text: "None of these", number: null,
    why: `This photo is unlike those that the model learnt from. ${labels ? "What it found below" : `The closest class, ${closest},`} is no more than a guess.`,
  };
  if (labels) return labels.length
    ? { text: labels.join(", "), number: null, why: `${labels.length === 1 ? "The one class that reaches its" : "The classes that reach their"} threshold.` }
    : { text: "None of its classes", number: null, why: "No class reaches its threshold." };
  return { text: prediction, number: probability, why: probability < 0.5 ? "Unsure: no class reaches 50\u00a0%." : null };
};

const trust = (prediction, model) => prediction.unknown ? [] : [
  model.calibrated
    ? "Confidence is calibrated: on photos like those held out of training, answers at 80\u00a0% are right about 8 times in 10."
    : "Confidence is not calibrated: it ranks the classes, but 80\u00a0% need not mean right 8 times in 10.",
  prediction.unknown === null || prediction.unknown === undefined
    ? "This model cannot tell photos of something else: every photo gets an answer from its own classes."
    : "The photo is like those that the model learnt from.",
];

export const spoken = ({ prediction }) => {
  const { text, number, why } = headline(prediction);
  return [number === null ? text : `${text}, ${percent(number)}`, why].filter(Boolean).join(". ");
};

export const show = (place, result, model) => {
  const { prediction } = result, { text, number, why } = headline(prediction);
  const found = new Set(prediction.labels ?? []);
  const shown = prediction.top.filter((one, at) => at < 5 || found.has(one.class));
  const missing = [...found].filter(name => !shown.some(one => one.class === name));
  place.replaceChildren(
    make("p", { className: prediction.unknown || prediction.labels?.length === 0 ? "headline none" : "headline" }, make("span", {}, text),
      ...(number === null ? [] : [" ", make("span", { className: "big" }, percent(number))])),
    ...(why ? [make("p", { className: prediction.unknown ? "why unknown" : "why" }, why)] : []),
    make("h3", {}, prediction.unknown ? "Closest classes" : prediction.labels ? "Each class by itself" : "Most probable classes"),
    make("ol", { className: prediction.unknown ? "bars faint" : "bars" }, ...shown.map(one => bar(one, found.has(one.class) ? "found" : ""))),
    ...(missing.length ? [make("p", { className: "small dim" }, `Also found: ${missing.join(", ")}.`)] : []),
    ...trust(prediction, model).map(line => make("p", { className: "small dim" }, line)),
    make("dl", { className: "facts times" },
      make("dt", {}, "Server"), make("dd", { id: "server-time" }, milliseconds(result.milliseconds)),
      make("dt", {}, "Round trip"), make("dd", { id: "round-trip" }, milliseconds(result.roundTrip)),
      make("dt", {}, "Engine"), make("dd", {}, result.engine ?? model.engine ?? "not said")),
  );
};

export const about = (place, model, open) => {
  const classes = model.classes ?? [], size = model.image_size;
  const fact = (name, value) => value === null || value === undefined || value === "" ? [] : [make("dt", {}, name), make("dd", {}, value)];
  place.replaceChildren(
    make("dl", { className: "facts" },
      ...fact("Name", model.name),
      ...fact("Task", model.task === "multi-label" ? "any number of classes for each photo" : "one class for each photo"),
      ...fact("Image size", size ? `${size[1]} × ${size[0]} pixels (width × height)` : null),
      ...fact("Confidence", model.calibrated ? "calibrated" : "not calibrated"),
      ...fact("“None of these”", model.tells_unknown ? "can be told" : "cannot be told"),
      ...fact("Map", model.explains ? "shows where the model looked" : "none: this model cannot be explained"),
      ...fact("Engine", model.engine), ...fact("Licence", model.licence), ...fact("Source", model.source),
      ...fact("Version", model.version ? make("code", {}, String(model.version).slice(0, 12)) : null)),
    ...(model.notes?.length ? [make("ul", { className: "small" }, ...model.notes.map(note => make("li", {}, note)))] : []),
  );
  if (!classes.length) return;
  const names = make("p", { className: "small classes", tabIndex: 0, role: "region", "aria-label": "Classes" });
  const list = make("details", { open }, make("summary", {}, `${classes.length.toLocaleString("en")} ${classes.length === 1 ? "class" : "classes"}`), names);
  const fill = () => { if (list.open && !names.textContent) names.textContent = classes.join(", "); };
  list.addEventListener("toggle", fill);
  fill();
  place.append(list);
};
