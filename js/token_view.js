// @ts-check
// From the server's answer to what the meter shows. No DOM here.

/**
 * @typedef {{id: number | null, text: string, weight: number, chunk: number, word: number,
 *   kind: string, ends_word: boolean}} Row
 * @typedef {{rows: Row[], token_count: number, chunk_count: number, chunk_length: number,
 *   cut_words: string[], embeddings: {name: string, vectors: number}[],
 *   ignored: {name: string, reason: string}[], warnings: string[], when?: string}} Tokens
 * @typedef {{parts: Tokens[], part_count: number, warnings: string[],
 *   obstacle: string | null}} Answer what /sd2_clip/tokenize says; one part, mostly
 * @typedef {{text: string, weight: number, kind: string, ids: (number | null)[],
 *   joinsNext: boolean, endsRun: boolean}} Chip
 * @typedef {{number: number, count: number, chips: Chip[]}} Chunk
 */

/** Start and end take a position each. */
const FRAME = 2;

/** Chips beyond this many are counted, not drawn: a page full of DOM would slow down typing. */
export const MOST_CHIPS = 1500;

/**
 * The chunks with their chips. Vectors of one embedding in one chunk make one chip.
 * @param {Tokens} tokens
 * @returns {Chunk[]}
 */
export function chunksOf(tokens) {
  /** @type {Chunk[]} */
  const chunks = [];
  for (let number = 0; number < tokens.chunk_count; number += 1) {
    chunks.push({ number: number + 1, count: 0, chips: [] });
  }
  let drawn = 0;
  /** @type {Row | null} */
  let before = null;
  for (const row of tokens.rows) {
    const chunk = chunks[row.chunk];
    chunk.count += 1;
    const last = chunk.chips.at(-1);
    if (last && before && sameEmbedding(before, row)) {
      last.ids.push(row.id);
      last.endsRun = true;
    } else if (drawn < MOST_CHIPS) {
      drawn += 1;
      if (last && last.weight === row.weight) last.endsRun = false;
      chunk.chips.push({
        text: embeddingName(row) ?? row.text,
        weight: row.weight,
        kind: row.kind,
        ids: [row.id],
        joinsNext: !row.ends_word,
        endsRun: true,
      });
    }
    before = row;
  }
  return chunks;
}

/** @param {Row} row */
function embeddingName(row) {
  if (row.kind !== "embedding") return null;
  return row.text.replace(/^embedding:/, "").replace(/\[\d+\/\d+\]$/, "");
}

/** @param {Row} before @param {Row} row */
function sameEmbedding(before, row) {
  return (
    row.kind === "embedding" &&
    before.kind === "embedding" &&
    row.chunk === before.chunk &&
    row.word === before.word &&
    embeddingName(row) === embeddingName(before)
  );
}

/** Tokens that fit into one chunk. @param {Tokens} tokens */
export function capacityOf(tokens) {
  return tokens.chunk_length - FRAME;
}

/**
 * The counts for the meter's head line. `spilled` counts the tokens after the first chunk.
 * @param {Tokens} tokens
 */
export function countsOf(tokens) {
  const perChunk = chunksOf(tokens).map((chunk) => chunk.count);
  const capacity = capacityOf(tokens);
  const last = perChunk.at(-1) ?? 0;
  return { perChunk, capacity, last, spilled: tokens.token_count - (perChunk[0] ?? 0) };
}

/**
 * How a weight looks: a hue, and how strong it is from 0 (weight 1) to 1.
 * @param {number} weight
 * @returns {{hue: number, strength: number}}
 */
export function weightColour(weight) {
  if (weight < 0) return { hue: 310, strength: 1 };
  if (weight === 1) return { hue: 0, strength: 0 };
  const distance = weight === 0 ? 1 : Math.min(1, Math.abs(Math.log2(weight)));
  return { hue: weight > 1 ? 28 : 212, strength: 0.25 + 0.75 * distance };
}

/** A weight as people write it. @param {number} weight */
export function weightText(weight) {
  return String(Number(weight.toPrecision(3)));
}

/** Layers of the whole encoder; the last but one is SD2's. */
const LAYERS = 24;

/**
 * The layer that an encoding uses, counted from 1; null where the loader is not known.
 * @param {number} stop stop_at_clip_layer: 0 as loaded, else -24 to -1
 * @param {{layer: string, layer_idx: number} | null} loader the widgets of Load SD2 CLIP
 * @returns {number | null}
 */
export function absoluteLayer(stop, loader) {
  if (stop < 0) return LAYERS + 1 + stop;
  if (loader === null) return null;
  if (loader.layer === "last") return LAYERS;
  if (loader.layer === "hidden") return LAYERS + 1 + loader.layer_idx;
  return LAYERS - 1;
}

export { LAYERS };

/**
 * The part that fills most, which the counts are about.
 * @param {Tokens[]} parts
 */
export function largestPart(parts) {
  return parts.reduce((most, part) => (part.token_count > most.token_count ? part : most));
}

/** A size in bytes as people write it. @param {number} bytes */
export function sizeText(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = bytes;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toPrecision(3)} ${units[unit]}`;
}

const LONGEST_HEADING = 140;

/**
 * What an error message begins with, up to two sentences, and the rest of it.
 * @param {string} message
 * @returns {[string, string]}
 */
export function headingAndRest(message) {
  const sentences = message.split(/(?<=[.!?])\s+(?=\p{Lu})/u);
  const count = sentences.slice(0, 2).join(" ").length > LONGEST_HEADING ? 1 : 2;
  return [sentences.slice(0, count).join(" "), sentences.slice(count).join(" ")];
}
