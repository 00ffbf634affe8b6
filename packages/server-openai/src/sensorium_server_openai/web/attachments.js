// Files on their way into a message. Which kinds there are, and which files are theirs, the server
// says: an entry has `kind`, `part_type` and `media_types`.

function fits(type, pattern) {
  return pattern.endsWith("/*") ? type.startsWith(pattern.slice(0, -1)) : type === pattern;
}

/** The entries whose files have this type. */
export function entriesFor(type, media) {
  return media.filter((entry) => entry.media_types.some((pattern) => fits(type, pattern)));
}

/** A preview of a file, as the browser can show it; "" if it can't. */
export function preview(file) {
  const url = URL.createObjectURL(file);
  // The elements that play are named as the types of what they play.
  const name = file.type.split("/")[0].replace(/[^a-z]/g, "") || "span";
  let element = document.createElement(name);
  if (element instanceof HTMLMediaElement) {
    element.controls = true;
    element.className = "player";
    element.setAttribute("aria-label", file.name);
  } else {
    element = document.createElement("img");
    element.alt = file.name;
  }
  element.onerror = () => {
    URL.revokeObjectURL(url);
    element.replaceWith(document.createTextNode(""));
  };
  element.src = url;
  return element;
}

function asDataURL(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} can't be read.`));
    reader.readAsDataURL(file);
  });
}

/** A list of files that a person can add to and take from. */
export class Attachments {
  constructor(list) {
    this.list = list;
    this.items = [];
  }

  /** Adds what a kind takes; returns a sentence about what none does. */
  add(files, media) {
    const refused = [];
    for (const file of files) {
      const entries = entriesFor(file.type, media);
      if (entries.length) this.show({ file, entries, entry: entries[0] });
      else refused.push(`${file.name} (${file.type || "of no known type"})`);
    }
    if (!refused.length) return "";
    const types = media.flatMap((entry) => entry.media_types).join(", ") || "no files";
    return `Not attached: ${refused.join(", ")}. This model takes ${types}.`;
  }

  show(item) {
    this.items.push(item);
    const row = document.createElement("li");
    row.append(preview(item.file), item.file.name);
    if (item.entries.length > 1) row.append(chooser(item));
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${item.file.name}`);
    remove.onclick = () => {
      this.items = this.items.filter((other) => other !== item);
      row.remove();
    };
    row.append(remove);
    this.list.append(row);
  }

  /** The chat parts, in the order of attaching. */
  parts() {
    return Promise.all(this.items.map(async ({ file, entry }) => (
      { type: entry.part_type, [entry.part_type]: { url: await asDataURL(file) } }
    )));
  }

  clear() {
    this.items = [];
    this.list.replaceChildren();
  }
}

/** Where several kinds take a file, the person says which. */
function chooser(item) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", `Send ${item.file.name} as`);
  for (const [index, entry] of item.entries.entries()) select.add(new Option(entry.kind, index));
  select.onchange = () => { item.entry = item.entries[select.value]; };
  return select;
}
