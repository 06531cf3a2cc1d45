// @ts-check
// Suggests embedding names while "embedding:" is typed: below the text, never over it.

import { embeddingQuery, fitsSD2, matching, written } from "./completion.js";
import { element } from "./dom.js";
import { fetchEmbeddings } from "./server.js";

/** @typedef {import("./completion.js").Embedding} Embedding */
/** @typedef {import("./messages.js").Translate} Translate */

const MAX_SUGGESTIONS = 8;

/** @param {{translate: Translate, changed: () => void}} options */
export function createCompletion({ translate, changed }) {
  const root = element("div", "sd2c-suggestions");
  root.hidden = true;
  /** @type {Embedding[]} */
  let suggestions = [];
  let selected = 0;
  /** @type {HTMLTextAreaElement | null} */
  let area = null;
  /** @type {WeakSet<HTMLTextAreaElement>} */
  const watched = new WeakSet();

  function close() {
    if (root.hidden) return;
    suggestions = [];
    root.hidden = true;
    changed();
  }

  function draw() {
    const items = suggestions.map((embedding, index) => {
      const className = index === selected ? "sd2c-suggestion sd2c-selected" : "sd2c-suggestion";
      const item = element("div", className, [
        element("span", "", embedding.name),
        element("small", "", describe(embedding, translate)),
      ]);
      // Not "click": the text would lose the focus first, and with it the caret.
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        event.stopPropagation();
        insert(embedding);
      });
      return item;
    });
    root.replaceChildren(...items, element("div", "sd2c-hint", translate("completionKeys")));
    root.hidden = false;
    changed();
  }

  /** @param {Embedding | undefined} embedding */
  function insert(embedding) {
    const query = area && embeddingQuery(area.value, area.selectionStart);
    close();
    if (!area || !query || !embedding) return;
    area.setRangeText(written(embedding.name), query.start, query.end, "end");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (root.hidden || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const count = suggestions.length;
    if (event.key === "Tab" && !event.shiftKey) insert(suggestions[selected]);
    else if (event.key === "ArrowDown") selected = (selected + 1) % count;
    else if (event.key === "ArrowUp") selected = (selected + count - 1) % count;
    else if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") close();
    else if (event.key !== "Tab") draw();
  }

  return {
    root,
    close,
    /** Suggest what matches at the caret, if the user is typing this text. @param {string} text */
    async update(text) {
      const focused = document.activeElement;
      if (!(focused instanceof HTMLTextAreaElement) || focused.value !== text) return close();
      area = focused;
      const query = embeddingQuery(text, area.selectionStart);
      if (!query) return close();
      if (!watched.has(area)) {
        watched.add(area);
        area.addEventListener("keydown", onKey, { capture: true });
        area.addEventListener("blur", close);
      }
      let found;
      try {
        found = matching(await fetchEmbeddings(), query.prefix, MAX_SUGGESTIONS);
      } catch {
        return close(); // the token meter reports that the server does not respond
      }
      if (area.value !== text) return;
      if (!found.length) return close();
      suggestions = found;
      selected = 0;
      draw();
    },
  };
}

/** @param {Embedding} embedding @param {Translate} translate */
function describe(embedding, translate) {
  if (embedding.width !== null && !fitsSD2(embedding)) {
    return translate("wrongWidth", { width: embedding.width });
  }
  return embedding.vectors === null ? "" : translate("vectors", { n: embedding.vectors });
}
