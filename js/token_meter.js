// @ts-check
// The meter under a prompt: how many tokens, in which chunks, with which weights.

import { element, fill } from "./dom.js";
import { latest } from "./latest.js";
import { askTokens } from "./server.js";
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
/** @typedef {(key: string, values?: Record<string, string | number>) => string} Say */

const PAUSE = 180;
const MOST_NOTES = 4;

/**
 * @param {{say: Say, changed: () => void}} options `changed` is called when the height may be new
 */
export function createTokenMeter({ say, changed }) {
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

  const asking = latest(PAUSE, async (/** @type {Prompt} */ prompt, signal) => {
    let answer;
    try {
      answer = await askTokens(prompt, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      answer = { error: say("unreachable") };
    }
    if (signal.aborted) return;
    root.classList.remove("sd2c-stale");
    if (answer.error) {
      shown = null; // asked again at the next occasion
      show([], [], [], [element("div", "sd2c-bad", answer.error)]);
    } else {
      shown = JSON.stringify(prompt);
      const part = largestPart(answer.parts);
      const barParts = countsOf(part).perChunk.map((count) => bar(count, capacityOf(part)));
      show(countParts(answer, say), barParts, partsOf(answer, say), noteParts(answer, say));
    }
  });

  /** @typedef {(Node | string)[]} Content */
  /** @param {Content} head @param {Content} fills @param {Content} tokens @param {Content} told */
  function show(head, fills, tokens, told) {
    fill(counts, head);
    fill(bars, fills);
    fill(chips, tokens);
    fill(notes, told);
    changed();
  }

  return {
    root,
    head,
    bars,
    chips,
    notes,
    /** Show the tokens of a text soon. @param {Prompt} prompt */
    update(prompt) {
      if (JSON.stringify(prompt) === shown) {
        asking.cancel();
        root.classList.remove("sd2c-stale");
        return;
      }
      root.classList.add("sd2c-stale");
      asking.schedule(prompt);
    },
    /** The text is not known before the run. */
    showLinked() {
      asking.cancel();
      shown = null;
      root.classList.remove("sd2c-stale");
      show([], [], [hint(say("linked"))], []);
    },
    /** @param {string} text @param {boolean} bad */
    setLayer(text, bad) {
      layer.textContent = text;
      layer.title = text;
      layer.classList.toggle("sd2c-bad", bad);
    },
    stop: asking.cancel,
  };
}

/** @param {string} text */
function hint(text) {
  return element("span", "sd2c-hint", text);
}

/** @param {Answer} answer @param {Say} say */
function countParts(answer, say) {
  const tokens = largestPart(answer.parts);
  const { last, capacity } = countsOf(tokens);
  const total = say(tokens.token_count === 1 ? "token" : "tokens", { n: tokens.token_count });
  const chunks = say(tokens.chunk_count === 1 ? "chunk" : "chunks", { n: tokens.chunk_count });
  const filled = say("fill", { n: last, capacity });
  return [
    element("b", "", tokens.chunk_count === 1 ? filled : total),
    ` · ${chunks}`,
    tokens.chunk_count === 1 ? "" : ` · ${filled}`,
    answer.part_count === 1 ? "" : ` · ${say("parts", { n: answer.part_count })}`,
  ];
}

/** @param {number} count @param {number} capacity */
function bar(count, capacity) {
  const inner = element("i");
  inner.style.width = `${(100 * count) / capacity}%`;
  return element("div", count === capacity ? "sd2c-bar sd2c-full" : "sd2c-bar", [inner]);
}

/** @param {Answer} answer @param {Say} say */
function partsOf(answer, say) {
  const found = answer.parts.flatMap((part) => [
    ...(part.when ? [element("div", "sd2c-border sd2c-when", part.when)] : []),
    ...chunkParts(part, say),
  ]);
  return found.length ? found : [hint(say("empty"))];
}

/** @param {Tokens} tokens @param {Say} say */
function chunkParts(tokens, say) {
  const capacity = capacityOf(tokens);
  return chunksOf(tokens).flatMap((chunk) => {
    const title = `${say("chunkBorder", { number: chunk.number })} · ${say("fill", {
      n: chunk.count,
      capacity,
    })}`;
    const border = chunk.number === 1 ? [] : [element("div", "sd2c-border", title)];
    return [...border, ...chunk.chips.map((chip) => chipPart(chip, say))];
  });
}

/** @param {import("./token_view.js").Chip} chip @param {Say} say */
function chipPart(chip, say) {
  const vectors = chip.ids.length;
  const isEmbedding = chip.kind === "embedding";
  const part = element("span", "sd2c-chip", chip.text);
  if (isEmbedding) {
    part.classList.add("sd2c-embedding");
    part.append(element("small", "", `×${vectors}`));
  }
  if (chip.joinsNext) part.classList.add("sd2c-joins");
  const about = isEmbedding
    ? [`embedding:${chip.text}`, say(vectors === 1 ? "vector" : "vectors", { n: vectors })]
    : [chip.text, say("id", { id: String(chip.ids[0]) })];
  if (chip.weight !== 1) {
    const { hue, strength } = weightColour(chip.weight);
    part.style.setProperty("--sd2c-hue", String(hue));
    part.style.setProperty("--sd2c-strength", String(strength));
    part.classList.add("sd2c-weighted");
    if (chip.endsRun) part.append(element("small", "", weightText(chip.weight)));
    about.push(say("weight", { weight: weightText(chip.weight) }));
  }
  part.title = about.join(" · ");
  return part;
}

/** @param {Answer} answer @param {Say} say */
function noteParts(answer, say) {
  /** @type {Map<string, string>} text to class: parts repeat each other's notes */
  const told = new Map();
  if (answer.obstacle) told.set(answer.obstacle, "sd2c-bad");
  for (const tokens of answer.parts) {
    const { spilled } = countsOf(tokens);
    if (spilled > 0) {
      told.set(say(spilled === 1 ? "spillOne" : "spill", { n: spilled, number: 2 }), "");
    }
    if (tokens.cut_words.length) {
      told.set(say("cut", { words: tokens.cut_words.slice(0, 3).join(", ") }), "");
    }
    for (const { name, reason } of tokens.ignored) {
      told.set(say("notFound", { name, reason }), "sd2c-bad");
    }
    for (const warning of tokens.warnings) told.set(warning, "");
  }
  for (const warning of answer.warnings) told.set(warning, "");
  const notes = [...told].map(([text, className]) => element("div", className, text));
  const more = notes.length - MOST_NOTES;
  if (more > 0) {
    notes.splice(MOST_NOTES, more, element("div", "", say("moreMessages", { n: more })));
  }
  return notes;
}
