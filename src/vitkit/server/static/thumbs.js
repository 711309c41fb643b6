// Small pictures of the rows in view, decoded one at a time so that a thousand photos need the memory of one.
const SIDE = 88; // pixels, for 44 on fine screens
const files = new WeakMap(), wanted = new Set();
let working = false;

const draw = async (cell, file) => {
  const bitmap = await createImageBitmap(file, { resizeHeight: SIDE, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(SIDE, SIDE), scale = Math.max(1, SIDE / bitmap.width);
  const width = bitmap.width * scale, height = bitmap.height * scale;
  canvas.getContext("2d").drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  bitmap.close();
  const url = URL.createObjectURL(await canvas.convertToBlob({ type: "image/webp", quality: 0.8 }));
  const image = new Image(44, 44);
  image.alt = "";
  image.src = url;
  await image.decode().finally(() => URL.revokeObjectURL(url));
  cell.replaceChildren(image);
};

const work = async () => {
  if (working) return;
  working = true;
  for (const cell of wanted) {
    wanted.delete(cell);
    watcher.unobserve(cell);
    await draw(cell, files.get(cell)).catch(() => cell.classList.add("no-preview"));
  }
  working = false;
};

const watcher = new IntersectionObserver(changes => {
  for (const { target, isIntersecting } of changes) isIntersecting ? wanted.add(target) : wanted.delete(target);
  work();
}, { rootMargin: "200px" });

export const watch = (cell, file) => { files.set(cell, file); watcher.observe(cell); };
export const forget = () => { wanted.clear(); watcher.disconnect(); };
