// The page: which model, which photo, and what happens when either changes.
import { about, show as showAnswer, spoken } from "./answer.js";
import * as api from "./api.js";
import * as batch from "./batch.js";
import * as camera from "./camera.js";
import { byId, complain, make, say } from "./dom.js";
import { fromInput, fromTransfer } from "./files.js";
import * as map from "./map.js";
import * as photo from "./photo.js";
import { counted } from "./words.js";

const file = byId("file"), folder = byId("folder"), drop = byId("drop"), body = byId("answer-body"), answer = byId("answer"), chooser = byId("model");
let served = [], limits = {}, model = null, current = null, flight = null;

// Models.

const introduce = () => {
  const known = model.classes?.length;
  byId("lead").textContent = `${model.name} ${known ? `knows ${counted(known, "class", "classes")}. ` : ""}${model.task === "multi-label" ? "A photo may show several of them." : "It says which one a photo shows."}`;
  byId("about").hidden = false;
  about(byId("about-body"), model, (known ?? 0) <= 40);
};

const take = (answered, wanted) => {
  ({ models: served, limits = {} } = answered);
  model = served.find(one => one.name === wanted) ?? served.find(one => one.default) ?? served[0];
  chooser.replaceChildren(...served.map(one => make("option", { value: one.name }, one.name)));
  chooser.value = model.name;
  byId("chooser").hidden = served.length < 2;
  for (const control of [file, folder, byId("camera-open")]) control.disabled = false;
  introduce();
};

const begin = async () => {
  complain(byId("trouble"), null);
  byId("lead").textContent = "Looking for the models of this server …";
  try {
    const answered = await api.patient(api.models, undefined, wait => { byId("lead").textContent = `The server is not ready. Trying again in ${wait} s …`; }, 60);
    if (!answered.models.length) throw new api.Failure(404, "no_models", "It answered, but serves no model. Start it with one: vit serve BUNDLE.");
    take(answered, model?.name);
  } catch (error) {
    byId("lead").textContent = "";
    complain(byId("trouble"), error, begin);
  }
};

// One photo.

const busy = on => { answer.setAttribute("aria-busy", String(on)); answer.classList.toggle("busy", on); };

const look = async () => {
  flight?.abort();
  const mine = flight = new AbortController(), asked = model, { file: sent } = current;
  map.offer(null);
  busy(true);
  say("Asking the model.");
  if (!body.querySelector(".headline")) body.replaceChildren(make("p", { className: "dim" }, "Asking the model …"));
  try {
    api.checkSize(sent, limits);
    const result = await api.patient(() => api.predict(asked, sent, mine.signal), mine.signal, wait => {
      body.replaceChildren(make("p", { className: "dim" }, `The server is busy. Trying again in ${wait} s …`));
    });
    await current.shown;
    if (mine !== flight) return;
    showAnswer(body, result, asked);
    say(`${spoken(result)}. The server took ${Math.round(result.milliseconds)} milliseconds.`);
    map.offer({ model: asked, file: sent, prediction: result.prediction });
    // The bundle was exchanged while the server ran: its facts are others now.
    if (result.version && asked.version && result.version !== asked.version) take(await api.models(), asked.name);
  } catch (error) {
    if (error.name === "AbortError" || mine !== flight) return;
    complain(body, error, error.again ? look : null);
  } finally {
    if (mine === flight) busy(false);
  }
};

const single = ({ file: chosen, path }) => {
  current = { file: chosen, path, shown: photo.show(chosen, path) };
  byId("two").classList.add("has-photo");
  byId("photo").scrollIntoView({ block: "nearest" });
  body.replaceChildren();
  look();
};

const receive = ({ entries, leftOut, folder: walked }) => {
  complain(byId("input-trouble"), null);
  if (!model) complain(byId("input-trouble"), { title: "No model yet.", message: "The server has not said which models it serves. Wait for it, or try again above." });
  else if (entries.length === 1 && !walked) single(entries[0]);
  else if (entries.length) batch.start(model, limits, { entries, leftOut });
  else complain(byId("input-trouble"), { title: "No photo there.", message: leftOut ? `The folder holds ${counted(leftOut, "file")}, none of them an image.` : "What came is no file. Save the photo and choose it, or copy the photo itself and paste it." });
};

// Ways for photos to come in.

for (const input of [file, folder]) input.addEventListener("change", () => { if (input.files.length) receive(fromInput(input)); input.value = ""; });

let inside = 0;
const hover = on => drop.classList.toggle("over", on);
addEventListener("dragenter", event => { event.preventDefault(); inside++; hover(true); });
addEventListener("dragleave", () => { inside = Math.max(0, inside - 1); if (!inside) hover(false); });
addEventListener("dragover", event => { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; });
addEventListener("drop", async event => {
  event.preventDefault();
  inside = 0;
  hover(false);
  try {
    receive(await fromTransfer(event.dataTransfer));
  } catch (error) {
    complain(byId("input-trouble"), { title: "The folder cannot be read.", message: `${error.message} Choose it with “Choose a folder” instead.` });
  }
});

addEventListener("paste", async event => {
  if (event.target.closest?.("input:not([type=file]), textarea, dialog")) return;
  event.preventDefault();
  receive(await fromTransfer(event.clipboardData));
});

const paste = byId("paste");
paste.hidden = !navigator.clipboard?.read;
paste.addEventListener("click", async () => {
  try {
    const entries = [];
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find(name => name.startsWith("image/"));
      if (!type) continue;
      const name = `pasted.${type.slice(6).replace(/\+.*/, "")}`;
      entries.push({ file: new File([await item.getType(type)], name, { type }), path: name });
    }
    receive({ entries, leftOut: 0, folder: false });
  } catch {
    complain(byId("input-trouble"), { title: "The clipboard cannot be read.", message: "Allow this page to read it when the browser asks, or paste with Ctrl+V (on a Mac Cmd+V)." });
  }
});

camera.onPhoto(taken => receive({ entries: [{ file: taken, path: taken.name }], leftOut: 0, folder: false }));
batch.onOpen(single);

chooser.addEventListener("change", () => {
  model = served.find(one => one.name === chooser.value);
  introduce();
  if (current) look();
});

// The key, where the server asks for one.

api.onKey(refused => new Promise(resolve => {
  const dialog = byId("key"), value = byId("key-value"), form = byId("key-form");
  byId("key-text").textContent = refused ? "The server did not accept this key. Look for missing or additional letters." : "Whoever runs the server can give you one.";
  let given = null;
  form.onsubmit = event => {
    event.preventDefault();
    given = value.value.trim();
    // What cannot stand in a header never reaches the server.
    if (!/^[\x21-\x7e]+$/.test(given)) { given = null; byId("key-text").textContent = "A key has letters, digits and signs without spaces only. Look for something that came along."; return; }
    dialog.close();
  };
  byId("key-cancel").onclick = () => dialog.close();
  dialog.onclose = () => { value.value = ""; resolve(given); };
  dialog.showModal();
  value.focus();
}));

byId("folder-pick").hidden = !("webkitdirectory" in folder);
begin();
