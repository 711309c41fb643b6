// Sorting, filtering and search for pages that are whole without them. No network, no storage.
(() => {
  "use strict";
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const said = document.getElementById("said");
  const say = text => { if (said) said.textContent = text; };

  // Tables: a cell sorts by its data-v where it has one, as a number if it is one; empty cells always come last.
  const key = cell => {
    const text = (cell.dataset.v ?? cell.textContent).trim();
    return text === "" ? null : text !== "" && isFinite(text) ? Number(text) : text;
  };
  const order = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b
      : typeof a !== typeof b ? (typeof a === "number" ? -1 : 1)
      : a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
  const sort = head => {
    const table = head.closest("table"), column = [...head.parentNode.children].indexOf(head);
    const first = head.dataset.first || "ascending", other = first === "ascending" ? "descending" : "ascending";
    const way = head.getAttribute("aria-sort") === first ? other : first;
    all("th[aria-sort]", table.tHead).forEach(th => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].map(row => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * order(a, b)));
      body.append(...rows.map(([, row]) => row));
    }
    say(`Sorted by ${head.textContent.trim()}, ${way}.`);
  };
  all("button.sort").forEach(button => {
    button.disabled = false;
    button.addEventListener("click", () => sort(button.closest("th")));
  });

  // Who says so: leave published, community or own rows and dots out.
  all(".chips").forEach(chips => {
    chips.hidden = false;
    chips.addEventListener("click", event => {
      const button = event.target.closest("button");
      if (!button) return;
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      all(`[data-who="${button.dataset.show}"]`, chips.parentNode).forEach(row => row.toggleAttribute("hidden", !shown));
      say(`${button.textContent.trim()}: ${shown ? "shown" : "hidden"}.`);
    });
  });

  // The menu scrolls sideways on a phone: show where we are.
  const menu = document.querySelector(".menu"), here = menu && menu.querySelector("[aria-current]");
  if (here) menu.scrollLeft = here.offsetLeft - (menu.clientWidth - here.offsetWidth) / 2;

  // Search.
  const form = document.querySelector(".search"), index = window.vitIndex;
  if (!form || !index) return;
  const input = form.querySelector("input"), list = form.querySelector(".found"), root = form.dataset.root;
  const plain = text => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const entries = index.map(([title, kind, href, about]) => ({ title, kind, href, about, t: plain(title), a: plain(about + " " + kind) }));
  const squash = text => text.replace(/[^\p{L}\p{N}]+/gu, "");
  let at = -1;
  form.hidden = false;

  const score = (entry, word) => {
    const place = entry.t.indexOf(word);
    if (place === 0) return 6;
    if (place > 0) return /[^\p{L}\p{N}]/u.test(entry.t[place - 1]) ? 5 : 3;
    const tight = squash(word);
    if (tight && squash(entry.t).includes(tight)) return 4;
    return entry.a.includes(word) ? 1 : 0;
  };
  const find = text => {
    const words = plain(text).split(/\s+/).filter(Boolean);
    if (!words.length) return null;
    return entries
      .map((entry, i) => {
        const scores = words.map(word => score(entry, word));
        return { entry, i, sum: Math.min(...scores) && scores.reduce((a, b) => a + b) + (entry.t === plain(text).trim() ? 9 : 0) };
      })
      .filter(found => found.sum)
      .sort((a, b) => b.sum - a.sum || a.i - b.i)
      .slice(0, 12)
      .map(found => found.entry);
  };
  const marked = (title, words) => {
    const span = document.createElement("span"), low = title.toLowerCase();
    let from = 0;
    while (from < title.length) {
      const hits = words.map(w => [low.indexOf(w, from), w.length]).filter(([p]) => p >= 0).sort((a, b) => a[0] - b[0] || b[1] - a[1]);
      if (!hits.length) break;
      const [place, length] = hits[0], mark = document.createElement("mark");
      mark.textContent = title.slice(place, place + length);
      span.append(title.slice(from, place), mark);
      from = place + length;
    }
    span.append(title.slice(from));
    return span;
  };
  const choose = next => {
    const items = all("li:not(.none)", list);
    at = items.length ? (next + items.length) % items.length : -1;
    items.forEach((item, i) => item.setAttribute("aria-selected", i === at));
    if (at < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", items[at].id);
    items[at].scrollIntoView({ block: "nearest" });
  };
  const close = () => {
    list.hidden = true;
    at = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const show = () => {
    const found = find(input.value);
    if (!found) return close();
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren(...found.map((entry, i) => {
      const item = document.createElement("li"), link = document.createElement("a"), kind = document.createElement("span");
      item.id = `found-${i}`;
      item.setAttribute("role", "option");
      link.href = root + entry.href;
      link.tabIndex = -1;
      kind.textContent = entry.kind;
      link.append(marked(entry.title, words), kind);
      if (entry.about) {
        const about = document.createElement("small");
        about.textContent = entry.about.length > 90 ? entry.about.slice(0, 88) + "…" : entry.about;
        link.append(about);
      }
      item.append(link);
      return item;
    }));
    if (!found.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.setAttribute("role", "presentation");
      none.textContent = "Nothing found. Try a dataset, a model or a paper.";
      list.append(none);
    }
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    choose(0);
    say(found.length === 1 ? "1 result" : `${found.length} results`);
  };
  input.addEventListener("input", show);
  input.addEventListener("focus", () => { if (input.value) show(); });
  input.addEventListener("keydown", event => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) show();
      else choose(at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      const link = list.hidden ? null : all("a", list)[at];
      if (link) link.click();
    } else if (event.key === "Escape") {
      if (list.hidden) input.value = "";
      close();
    }
  });
  form.addEventListener("submit", event => event.preventDefault());
  document.addEventListener("click", event => { if (!form.contains(event.target)) close(); });
  form.addEventListener("focusout", event => { if (event.relatedTarget && !form.contains(event.relatedTarget)) close(); });
  document.addEventListener("keydown", event => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
      input.select();
    }
  });
})();
