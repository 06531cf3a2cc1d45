// @ts-check
// Turns the server's tokens into what the token meter shows. No DOM here.

/**
 * @typedef {{id: number | null, text: string, weight: number, chunk: number, word: number,
 *   kind: string, ends_word: boolean}} Row
 * @typedef {{rows: Row[], token_count: number, chunk_count: number, chunk_length: number,
 *   cut_words: string[], embeddings: {name: string, vectors: number}[],
 *   ignored: {name: string, reason: string}[], warnings: string[], when?: string}} Tokens
 * @typedef {{parts: Tokens[], part_count: number, warnings: string[],
 *   obstacle: string | null, has_choices: boolean}} Answer of /sd2_clip/tokenize; most texts have one part
 * @typedef {{text: string, weight: number, kind: string, ids: (number | null)[],
 *   joinsNext: boolean, endsRun: boolean}} Chip
 * @typedef {{number: number, count: number, chips: Chip[]}} Chunk
 * @typedef {{layer: string, layer_idx: number}} LoaderLayer the layer widgets of Load SD2 CLIP
 */

/** Width of SD2's token embeddings. */
export const EMBEDDING_SIZE = 1024;

/** Layers of the whole text encoder; SD2 uses the penultimate one. */
export const LAYERS = 24;

/** Start and end token of a chunk. */
const SPECIAL_TOKENS = 2;

/** Tokens after these are counted, not drawn: too many elements would slow down typing. */
export const MAX_CHIPS = 1500;

/**
 * The chunks with their chips. The vectors of one embedding in one chunk are one chip.
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
    if (!chunk) continue;
    chunk.count += 1;
    const last = chunk.chips.at(-1);
    if (last && before && sameEmbedding(before, row)) {
      last.ids.push(row.id);
      last.endsRun = true;
    } else if (drawn < MAX_CHIPS) {
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

/** The number of prompt tokens in a full chunk. @param {Tokens} tokens */
export function capacityOf(tokens) {
  return tokens.chunk_length - SPECIAL_TOKENS;
}

/**
 * The counts that the meter's head shows. `spilled` counts the tokens after the first chunk.
 * @param {Tokens} tokens
 */
export function countsOf(tokens) {
  const perChunk = chunksOf(tokens).map((chunk) => chunk.count);
  const capacity = capacityOf(tokens);
  const last = perChunk.at(-1) ?? 0;
  return { perChunk, capacity, last, spilled: tokens.token_count - (perChunk[0] ?? 0) };
}

/**
 * The colour of a weight: a hue, and a strength from 0 (weight 1) to 1.
 * @param {number} weight
 * @returns {{hue: number, strength: number}}
 */
export function weightColour(weight) {
  if (weight < 0) return { hue: 310, strength: 1 };
  if (weight === 1) return { hue: 0, strength: 0 };
  const distance = weight === 0 ? 1 : Math.min(1, Math.abs(Math.log2(weight)));
  return { hue: weight > 1 ? 28 : 212, strength: 0.25 + 0.75 * distance };
}

/** Formats a weight. @param {number} weight */
export function weightText(weight) {
  return String(Number(weight.toPrecision(3)));
}

/**
 * The layer that an encoding uses, counted from 1; null if the loader is not known.
 * @param {number} stop stop_at_clip_layer: 0 as loaded, else -24 to -1
 * @param {LoaderLayer | null} loader
 * @returns {number | null}
 */
export function absoluteLayer(stop, loader) {
  if (stop < 0) return LAYERS + 1 + stop;
  if (loader === null) return null;
  if (loader.layer === "last") return LAYERS;
  if (loader.layer === "hidden") return LAYERS + 1 + loader.layer_idx;
  return LAYERS - 1;
}

/**
 * The part with the most tokens: the meter's head counts this one.
 * @param {Tokens[]} parts
 */
export function largestPart(parts) {
  return parts.reduce((most, part) => (part.token_count > most.token_count ? part : most));
}

/** Formats a size in bytes. @param {number} bytes */
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

const MAX_HEADING = 140;

/**
 * Splits an error message into a heading of up to two sentences and the rest.
 * @param {string} message
 * @returns {[string, string]}
 */
export function headingAndRest(message) {
  const sentences = message.split(/(?<=[.!?])\s+(?=\p{Lu})/u);
  const count = sentences.slice(0, 2).join(" ").length > MAX_HEADING ? 1 : 2;
  return [sentences.slice(0, count).join(" "), sentences.slice(count).join(" ")];
}
