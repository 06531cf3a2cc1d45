// @ts-check
// Offers names of embeddings while "embedding:" is typed, below the text and never over it.

import { embeddingQuery, matching } from "./completion.js";
import { element, fill } from "./dom.js";
import { askEmbeddings } from "./server.js";

/** @typedef {import("./completion.js").Embedding} Embedding */
/** @typedef {(key: string, values?: Record<string, string | number>) => string} Say */

const MOST_OFFERS = 8;

/** @param {{say: Say, changed: () => void}} options */
export function createCompletion({ say, changed }) {
  const root = element("div", "sd2c-offers");
  root.hidden = true;
  /** @type {Embedding[]} */
  let offers = [];
  let chosen = 0;
  /** @type {HTMLTextAreaElement | null} */
  let area = null;
  /** @type {WeakSet<HTMLTextAreaElement>} */
  const watched = new WeakSet();

  function close() {
    if (root.hidden) return;
    offers = [];
    root.hidden = true;
    changed();
  }

  function draw() {
    const items = offers.map((offer, index) => {
      const item = element("div", index === chosen ? "sd2c-offer sd2c-chosen" : "sd2c-offer", [
        element("span", "", offer.name),
        element("small", "", about(offer, say)),
      ]);
      // Before the text loses the focus, and with it the caret.
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        event.stopPropagation();
        insert(offer);
      });
      return item;
    });
    fill(root, [...items, element("div", "sd2c-hint", say("completionKeys"))]);
    root.hidden = false;
    changed();
  }

  /** @param {Embedding} offer */
  function insert(offer) {
    const query = area && embeddingQuery(area.value, area.selectionStart);
    close();
    if (!area || !query) return;
    area.setRangeText(offer.name, query.start, query.end, "end");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (root.hidden || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Tab" && !event.shiftKey) insert(offers[chosen]);
    else if (event.key === "ArrowDown") chosen = (chosen + 1) % offers.length;
    else if (event.key === "ArrowUp") chosen = (chosen + offers.length - 1) % offers.length;
    else if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") close();
    else if (event.key !== "Tab") draw();
  }

  return {
    root,
    close,
    /** Offer what fits the caret, if the user is typing this text. @param {string} text */
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
        found = matching(await askEmbeddings(), query.typed, MOST_OFFERS);
      } catch {
        return close(); // typing goes on; the meter says that the server does not answer
      }
      if (area.value !== text) return;
      if (!found.length) return close();
      offers = found;
      chosen = 0;
      draw();
    },
  };
}

/** @param {Embedding} offer @param {Say} say */
function about(offer, say) {
  if (offer.width !== null && offer.width !== 1024) return say("wrongWidth", { width: offer.width });
  if (offer.vectors === null) return "";
  return say(offer.vectors === 1 ? "vector" : "vectors", { n: offer.vectors });
}
