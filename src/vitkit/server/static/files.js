// Files that a person chose, dropped or pasted, folders walked, with the path that each is called by.
const IMAGES = /\.(apng|avif|bmp|gif|heic|heif|ico|j2k|jfif|jp2|jpe|jpeg|jpg|mpo|npy|pbm|pgm|png|pnm|ppm|tga|tiff?|webp)$/i;
const hidden = path => path.split("/").some(part => part.startsWith("."));
const byPath = (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0);

// Of a folder the images alone, in order of path, as `vit predict` takes them; `leftOut` counts the others.
const ofFolder = entries => {
  const kept = entries.filter(({ path }) => IMAGES.test(path) && !hidden(path)).sort(byPath);
  return { entries: kept, leftOut: entries.length - kept.length, folder: true };
};

export const fromInput = input => {
  const entries = [...input.files].map(file => ({ file, path: file.webkitRelativePath || file.name }));
  return input.webkitdirectory ? ofFolder(entries) : { entries, leftOut: 0, folder: false };
};

const listed = reader => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
const opened = entry => new Promise((resolve, reject) => entry.file(resolve, reject));

const walk = async (entry, found) => {
  if (entry.isFile) found.push({ file: await opened(entry), path: entry.fullPath.replace(/^\//, "") });
  else for (const reader = entry.createReader(); ;) {
    const batch = await listed(reader); // a part at a time, until none is left
    if (!batch.length) return;
    for (const child of batch) await walk(child, found);
  }
};

// Must be called while the event is handled: afterwards the browser forgets what was dropped.
export const fromTransfer = async transfer => {
  const items = [...transfer.items].filter(item => item.kind === "file");
  const roots = items.map(item => item.webkitGetAsEntry?.());
  if (!roots.some(root => root?.isDirectory)) {
    return { entries: [...transfer.files].map(file => ({ file, path: file.name })), leftOut: 0, folder: false };
  }
  const loose = [], inFolders = [];
  for (const root of roots.filter(Boolean)) await walk(root, root.isDirectory ? inFolders : loose);
  const { entries, leftOut } = ofFolder(inFolders);
  return { entries: [...loose, ...entries], leftOut, folder: true };
};
