// @ts-check
// The token meter below a prompt: its tokens, chunks and weights.

import { debounce } from "./debounce.js";
import { element, withPaths } from "./dom.js";
import { fetchTokens } from "./server.js";
import {
  capacityOf,
  chunksOf,
  countsOf,
  largestPart,
  weightColour,
  weightText,
} from "./token_view.js";

/** @typedef {import("./token_view.js").Tokens} Tokens */
/** @typedef {import("./token_view.js").Answer} Answer */
/** @typedef {import("./server.js").Prompt} Prompt */
/** @typedef {import("./messages.js").Translate} Translate */
/** @typedef {import("./dom.js").Content} Content */

const DELAY = 180;
const MAX_NOTES = 4;
/** Prompts of a schedule whose tokens are drawn; the others are counted. */
const MAX_PARTS = 3;

/**
 * @param {{translate: Translate, changed: () => void}} options `changed` is called when the height may be new
 * @param {boolean} drawsOwn whether the node draws its own options of {a|b}, for show
 */
export function createTokenMeter({ translate, changed }, drawsOwn) {
  const counts = element("span", "sd2c-counts");
  const layer = element("span", "sd2c-layer");
  const bars = element("div", "sd2c-bars");
  const chips = element("div", "sd2c-chips");
  const scroll = element("div", "sd2c-scroll", [chips]);
  const notes = element("div", "sd2c-notes");
  const head = element("div", "sd2c-head", [counts, layer]);
  const root = element("div", "sd2c-meter", [head, bars, scroll, notes]);
  /** @type {string | null} */
  let shown = null;

  const request = debounce(DELAY, async (/** @type {Prompt} */ prompt, signal) => {
    let answer;
    try {
      answer = await fetchTokens(prompt, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      answer = { error: translate("unreachable") };
    }
    if (signal.aborted) return;
    root.classList.remove("sd2c-stale");
    if ("error" in answer) {
      shown = null; // requested again by the next update
      show([], [], [], [element("div", "sd2c-bad", answer.error)]);
    } else {
      shown = JSON.stringify(prompt);
      const largest = largestPart(answer.parts);
      show(
        countsContent(answer, largest, translate),
        countsOf(largest).perChunk.map((count) => bar(count, capacityOf(largest))),
        chipsContent(answer, translate),
        notesContent(answer, drawsOwn, translate),
      );
    }
  });

  /** @param {Content} head @param {Content} fills @param {Content} tokens @param {Content} text */
  function show(head, fills, tokens, text) {
    counts.replaceChildren(...head);
    bars.replaceChildren(...fills);
    chips.replaceChildren(...tokens);
    notes.replaceChildren(...text);
    changed();
  }

  return {
    root,
    head,
    bars,
    chips,
    notes,
    /** Request the tokens of a prompt, after a pause. @param {Prompt} prompt */
    update(prompt) {
      if (JSON.stringify(prompt) === shown) {
        request.cancel();
        root.classList.remove("sd2c-stale");
        return;
      }
      root.classList.add("sd2c-stale");
      request.schedule(prompt);
    },
    /** Show that the text is not known before a run. */
    showLinked() {
      request.cancel();
      shown = null;
      root.classList.remove("sd2c-stale");
      show([], [], [hint(translate("linked"))], []);
    },
    /** @param {string} text @param {boolean} bad */
    setLayer(text, bad) {
      layer.textContent = text;
      layer.title = text;
      layer.classList.toggle("sd2c-bad", bad);
    },
    stop: request.cancel,
  };
}

/** @param {string} text */
function hint(text) {
  return element("span", "sd2c-hint", text);
}

/** @param {Answer} answer @param {Tokens} tokens @param {Translate} translate @returns {Content} */
function countsContent(answer, tokens, translate) {
  const { last, capacity } = countsOf(tokens);
  const total = translate("tokens", { n: tokens.token_count });
  const chunks = translate("chunks", { n: tokens.chunk_count });
  const filled = translate("fill", { n: last, capacity });
  return [
    element("b", "", tokens.chunk_count === 1 ? filled : total),
    ` · ${chunks}`,
    tokens.chunk_count === 1 ? "" : ` · ${filled}`,
    answer.part_count === 1 ? "" : ` · ${translate("prompts", { n: answer.part_count })}`,
  ];
}

/** @param {number} count @param {number} capacity */
function bar(count, capacity) {
  const inner = element("i");
  inner.style.width = `${(100 * count) / capacity}%`;
  return element("div", count === capacity ? "sd2c-bar sd2c-full" : "sd2c-bar", [inner]);
}

/** @param {Answer} answer @param {Translate} translate @returns {Content} */
function chipsContent(answer, translate) {
  const content = answer.parts.slice(0, MAX_PARTS).flatMap((part) => [
    ...(part.when ? [element("div", "sd2c-border sd2c-when", part.when)] : []),
    ...chunksContent(part, translate),
  ]);
  const more = answer.part_count - MAX_PARTS;
  if (more > 0) content.push(element("div", "sd2c-more", translate("moreParts", { n: more })));
  return content.length ? content : [hint(translate("empty"))];
}

/** @param {Tokens} tokens @param {Translate} translate */
function chunksContent(tokens, translate) {
  const capacity = capacityOf(tokens);
  return chunksOf(tokens).flatMap(({ number, count, chips }) => {
    const title = translate("chunkBorder", { number });
    const filled = translate("fill", { n: count, capacity });
    const border = element("div", "sd2c-border", `${title} · ${filled}`);
    return [
      ...(number === 1 ? [] : [border]),
      ...chips.map((chip) => chipElement(chip, translate)),
    ];
  });
}

/** @param {import("./token_view.js").Chip} chip @param {Translate} translate */
function chipElement(chip, translate) {
  const vectors = chip.ids.length;
  const isEmbedding = chip.kind === "embedding";
  const root = element("span", "sd2c-chip", chip.text);
  if (isEmbedding) {
    root.classList.add("sd2c-embedding");
    root.append(element("small", "", `×${vectors}`));
  }
  if (chip.joinsNext) root.classList.add("sd2c-joins");
  const title = isEmbedding
    ? [`embedding:${chip.text}`, translate("vectors", { n: vectors })]
    : [chip.text, translate("id", { id: String(chip.ids[0]) })];
  if (chip.weight !== 1) {
    const { hue, strength } = weightColour(chip.weight);
    root.style.setProperty("--sd2c-hue", String(hue));
    root.style.setProperty("--sd2c-strength", String(strength));
    root.classList.add("sd2c-weighted");
    if (chip.endsRun) root.append(element("small", "", weightText(chip.weight)));
    title.push(translate("weight", { weight: weightText(chip.weight) }));
  }
  root.title = title.join(" · ");
  return root;
}

/** @param {Answer} answer @param {boolean} drawsOwn @param {Translate} translate @returns {Content} */
function notesContent(answer, drawsOwn, translate) {
  /** @type {Map<string, string>} text to class name: parts repeat each other's notes */
  const notes = new Map();
  if (answer.obstacle) notes.set(answer.obstacle, "sd2c-bad");
  if (answer.has_choices) {
    notes.set(translate("choices"), "");
    if (drawsOwn) notes.set(translate("drawsOwn"), "");
  }
  for (const tokens of answer.parts) {
    const { spilled, perChunk } = countsOf(tokens);
    if (spilled > 0) {
      const number = perChunk.length > 2 ? `2–${perChunk.length}` : 2;
      notes.set(translate("spill", { n: spilled, number }), "");
    }
    if (tokens.cut_words.length) {
      notes.set(translate("cut", { words: tokens.cut_words.slice(0, 3).join(", ") }), "");
    }
    for (const { name, reason } of tokens.ignored) {
      notes.set(translate("ignored", { name, reason }), "sd2c-bad");
    }
    for (const warning of tokens.warnings) notes.set(warning, "");
  }
  for (const warning of answer.warnings) notes.set(warning, "");
  const content = [...notes].map(([text, className]) => withPaths("div", className, text));
  const more = content.length - MAX_NOTES;
  if (more > 0) {
    content.splice(MAX_NOTES, more, element("div", "", translate("moreNotes", { n: more })));
  }
  return content;
}
