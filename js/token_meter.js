// @ts-check
// The meter under a prompt: how many tokens, in which chunks, with which weights.

import { element, fill } from "./dom.js";
import { latest } from "./latest.js";
import { askTokens } from "./server.js";
import { capacityOf, chunksOf, countsOf, weightColour, weightText } from "./token_view.js";

/** @typedef {import("./token_view.js").Tokens} Tokens */
/** @typedef {(key: string, values?: Record<string, string | number>) => string} Say */

const PAUSE = 180;

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

  const asking = latest(PAUSE, async (/** @type {string} */ text, signal) => {
    let tokens;
    try {
      tokens = await askTokens(text, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      tokens = { error: say("unreachable") };
    }
    if (!signal.aborted) show(tokens, text);
  });

  /** @param {Tokens & {error?: string}} tokens @param {string} text */
  function show(tokens, text) {
    root.classList.remove("sd2c-stale");
    if (tokens.error) {
      fill(counts, []);
      fill(bars, []);
      fill(chips, []);
      fill(notes, [element("div", "sd2c-bad", tokens.error)]);
    } else {
      shown = text;
      fill(counts, countParts(tokens, say));
      fill(bars, countsOf(tokens).perChunk.map((count) => bar(count, capacityOf(tokens))));
      fill(chips, tokens.rows.length ? chunkParts(tokens, say) : [hint(say("empty"))]);
      fill(notes, noteParts(tokens, say));
    }
    changed();
  }

  return {
    root,
    head,
    bars,
    chips,
    notes,
    /** Show the tokens of a text soon. @param {string} text */
    update(text) {
      if (text === shown) {
        asking.cancel();
        root.classList.remove("sd2c-stale");
        return;
      }
      root.classList.add("sd2c-stale");
      asking.schedule(text);
    },
    /** The text is not known before the run. */
    showLinked() {
      asking.cancel();
      shown = null;
      root.classList.remove("sd2c-stale");
      fill(counts, []);
      fill(bars, []);
      fill(chips, [hint(say("linked"))]);
      fill(notes, []);
      changed();
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

/** @param {Tokens} tokens @param {Say} say */
function countParts(tokens, say) {
  const { last, capacity } = countsOf(tokens);
  const total = say(tokens.token_count === 1 ? "token" : "tokens", { n: tokens.token_count });
  const chunks = say(tokens.chunk_count === 1 ? "chunk" : "chunks", { n: tokens.chunk_count });
  const filled = say("fill", { n: last, capacity });
  return [
    element("b", "", tokens.chunk_count === 1 ? filled : total),
    ` · ${chunks}`,
    tokens.chunk_count === 1 ? "" : ` · ${filled}`,
  ];
}

/** @param {number} count @param {number} capacity */
function bar(count, capacity) {
  const inner = element("i");
  inner.style.width = `${(100 * count) / capacity}%`;
  return element("div", count === capacity ? "sd2c-bar sd2c-full" : "sd2c-bar", [inner]);
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

/** @param {Tokens} tokens @param {Say} say */
function noteParts(tokens, say) {
  const { spilled } = countsOf(tokens);
  const notes = [];
  if (spilled > 0) {
    const key = spilled === 1 ? "spillOne" : "spill";
    notes.push(element("div", "", say(key, { n: spilled, number: 2 })));
  }
  if (tokens.cut_words.length) {
    notes.push(element("div", "", say("cut", { words: tokens.cut_words.slice(0, 3).join(", ") })));
  }
  for (const { name, reason } of tokens.ignored) {
    notes.push(element("div", "sd2c-bad", say("notFound", { name, reason })));
  }
  for (const warning of tokens.warnings) notes.push(element("div", "", warning));
  const more = notes.length - 4;
  if (more > 0) notes.splice(4, more, element("div", "", say("moreMessages", { n: more })));
  return notes;
}
