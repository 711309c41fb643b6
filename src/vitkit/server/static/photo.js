// The photo on the page: shown upright as browsers do, its object URL given back when the next one comes.
import { byId } from "./dom.js";
import { bytes } from "./words.js";

const picture = byId("picture"), frame = byId("frame"), placeholder = byId("placeholder"), caption = byId("caption");
const SMALL = 240; // pixels: a smaller photo is enlarged in whole steps up to here, so that it can be looked at
let url = null;

export const canShow = () => !frame.hidden;

export const show = async (file, path) => {
  if (url) URL.revokeObjectURL(url);
  const mine = url = URL.createObjectURL(file);
  byId("photo").hidden = false;
  picture.alt = `Your photo, ${path}`;
  caption.textContent = `${path} · ${bytes(file.size)}`;
  picture.style.width = "";
  const loaded = await new Promise(resolve => {
    picture.onload = () => resolve(true);
    picture.onerror = () => resolve(false);
    picture.src = mine;
  });
  if (mine !== url) return;
  frame.hidden = !loaded;
  placeholder.hidden = loaded;
  if (!loaded) return;
  const { naturalWidth: width, naturalHeight: height } = picture, times = Math.floor(SMALL / Math.max(width, height));
  if (times > 1) picture.style.width = `${times * width}px`;
  caption.textContent = `${path} · ${width} × ${height} pixels · ${bytes(file.size)}`;
};
