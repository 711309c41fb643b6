// Where the model looked: fetched when asked for, laid over the part of the photo that the model saw.
import * as api from "./api.js";
import { byId, complain, make, say } from "./dom.js";
import { canShow } from "./photo.js";
import { percent } from "./words.js";

const [area, toggle, controls, seen, heat, slider, output, chosen, text, trouble] =
  ["map", "map-toggle", "map-controls", "seen", "heat", "opacity", "opacity-value", "explained", "map-text", "map-trouble"].map(byId);
const MANY = 2000; // classes: more than these make a list that no one scrolls, and a slow one
let subject = null, flight = null, url = null;

const drop = () => {
  if (url) URL.revokeObjectURL(url);
  url = null;
  seen.hidden = true;
  heat.removeAttribute("src");
};

const fade = () => {
  heat.style.opacity = slider.value / 100;
  output.textContent = `${slider.value} %`;
  slider.setAttribute("aria-valuetext", `${slider.value} percent`);
};

const fold = () => {
  flight?.abort();
  drop();
  controls.hidden = true;
  toggle.textContent = "Show the attention map";
  toggle.setAttribute("aria-expanded", "false");
};

const lay = async ({ map, explained, method }) => {
  drop();
  const png = Uint8Array.from(atob(map.png), letter => letter.charCodeAt(0));
  url = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  for (const side of ["left", "top", "width", "height"]) seen.style[side] = `${100 * map[side]}%`;
  const whole = map.left <= 0.005 && map.top <= 0.005 && map.left + map.width >= 0.995 && map.top + map.height >= 0.995;
  seen.classList.toggle("part", !whole);
  heat.src = url;
  heat.alt = `Map of where the model looked${explained ? ` for ${explained}` : ""}`;
  await heat.decode().catch(() => {});
  seen.hidden = false;
  byId("ramp").hidden = false;
  const outside = whole ? "" : " What is darkened outside the thin line the model did not see.";
  text.textContent = `What spoke for ${explained ?? "this answer"}, by the method “${method}”. A map says where, never why.${outside}`;
  say(`The map for ${explained ?? "this answer"} lies over the photo.`);
};

const draw = async (name = null) => {
  flight?.abort();
  const mine = flight = new AbortController(), asked = subject;
  complain(trouble, null);
  controls.setAttribute("aria-busy", "true");
  text.textContent = "Drawing the map …";
  try {
    const answer = await api.patient(() => api.explain(asked.model, asked.file, name, mine.signal), mine.signal, wait => {
      text.textContent = `The server is busy. Trying again in ${wait} s …`;
    });
    if (mine !== flight || mine.signal.aborted) return;
    if ([...chosen.options].some(option => option.value === answer.explained)) chosen.value = answer.explained;
    await lay(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    text.textContent = "";
    byId("ramp").hidden = true;
    drop();
    complain(trouble, error, error.again ? () => draw(name) : null);
  } finally {
    if (mine === flight) controls.removeAttribute("aria-busy");
  }
};

const options = ({ prediction, model }) => {
  const option = (name, label) => make("option", { value: name }, label);
  const best = make("optgroup", { label: "Most probable" }, ...prediction.top.slice(0, 5).map(one => option(one.class, `${one.class} (${percent(one.probability)})`)));
  const listed = new Set(prediction.top.slice(0, 5).map(one => one.class));
  const others = (model.classes ?? []).filter(name => !listed.has(name));
  const rest = others.length && others.length <= MANY ? [make("optgroup", { label: "Other classes" }, ...others.map(name => option(name, name)))] : [];
  chosen.replaceChildren(best, ...rest);
};

// A photo that was answered, or null.
export const offer = answered => {
  fold();
  subject = answered;
  area.hidden = !(answered && answered.model.explains && canShow());
  if (!area.hidden) options(answered);
};

toggle.addEventListener("click", () => {
  if (!controls.hidden) { fold(); return; }
  controls.hidden = false;
  toggle.textContent = "Hide the attention map";
  toggle.setAttribute("aria-expanded", "true");
  draw();
});
slider.addEventListener("input", fade);
chosen.addEventListener("change", () => draw(chosen.value));
fade();
