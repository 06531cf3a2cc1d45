// @ts-check
// Finds the name after "embedding:" at the caret, and the embeddings that match it. No DOM here.

import { EMBEDDING_SIZE } from "./token_view.js";

/**
 * @typedef {{name: string, vectors: number | null, width: number | null}} Embedding
 * @typedef {{start: number, end: number, prefix: string}} Query
 */

const BEFORE_CARET = /(?:^|[\s,()[\]{}|])embedding:("[^"\n]*|[^\s,()[\]{}|:"]*)$/;
const AFTER_CARET = /^[^\s,()[\]{}|:]*/;
const AFTER_CARET_IN_QUOTES = /^[^"\n]*"/;
const NEEDS_QUOTES = /[\s,[\]{}|:<]/;

/**
 * The name being typed at the caret, or null. `start` and `end` enclose the whole name.
 * @param {string} text
 * @param {number} caret
 * @returns {Query | null}
 */
export function embeddingQuery(text, caret) {
  const before = text.slice(0, caret).match(BEFORE_CARET);
  if (!before) return null;
  const typed = before[1] ?? "";
  const after = text.slice(caret);
  const quoted = typed.startsWith('"') ? after.match(AFTER_CARET_IN_QUOTES)?.[0] : undefined;
  const rest = quoted ?? after.match(AFTER_CARET)?.[0] ?? "";
  const prefix = typed.replace(/^"/, "").replace(/\\([()])/g, "$1");
  return { start: caret - typed.length, end: caret + rest.length, prefix };
}

/**
 * A name as it is written after "embedding:": quoted if it would end early, brackets escaped.
 * @param {string} name
 */
export function written(name) {
  const escaped = name.replace(/[()]/g, "\\$&");
  return NEEDS_QUOTES.test(name) ? `"${escaped}"` : escaped;
}

/** Whether an embedding's vectors have SD2's width, as far as that is known. @param {Embedding} one */
export function fitsSD2({ width }) {
  return width === null || width === EMBEDDING_SIZE;
}

/**
 * The embeddings to suggest: names that start with the prefix, then names that contain it, then
 * embeddings of another width, which SD2 cannot use. Empty if the name is complete.
 * @param {Embedding[]} embeddings
 * @param {string} prefix
 * @param {number} limit
 */
export function matching(embeddings, prefix, limit) {
  const lower = prefix.toLowerCase();
  /** @type {{rank: number, embedding: Embedding}[]} */
  const found = [];
  for (const embedding of embeddings) {
    const index = embedding.name.toLowerCase().indexOf(lower);
    if (index < 0) continue;
    found.push({ rank: (index > 0 ? 1 : 0) + (fitsSD2(embedding) ? 0 : 2), embedding });
  }
  if (found.length === 1 && found[0]?.embedding.name === prefix) return [];
  // sort() is stable: equal ranks stay in alphabetical order.
  found.sort((a, b) => a.rank - b.rank);
  return found.slice(0, limit).map(({ embedding }) => embedding);
}
