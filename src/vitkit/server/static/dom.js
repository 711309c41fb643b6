// The document: elements by id, new ones, and the one voice for screen readers. Text is only ever set as text.
export const byId = id => document.getElementById(id);

export const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
};

// Said once by screen readers, whatever has the focus.
export const say = text => { byId("said").textContent = text; };

// An error where it happened, with what can be done about it; nothing clears it.
export const complain = (place, failure, again = null) => {
  place.replaceChildren();
  if (!failure) return;
  const box = make("div", { className: "trouble" }, make("p", {}, make("strong", {}, failure.title)), make("p", {}, failure.message));
  if (again) {
    const button = make("button", { type: "button", className: "button" }, "Try again");
    button.addEventListener("click", () => { place.tabIndex = -1; place.focus(); again(); }); // the button is about to go
    box.append(button);
  }
  place.append(box);
  say(`${failure.title} ${failure.message}`);
};

export const save = (name, text, type) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the download has begun by then
};
