// @ts-check
// Completing the name after "embedding:" while typing. No DOM here.

/**
 * @typedef {{name: string, vectors: number | null, width: number | null}} Embedding
 * @typedef {{start: number, end: number, typed: string}} Query
 */

const BEFORE_CARET = /(?:^|[\s,()[\]{}|])embedding:([^\s,()[\]{}|:]*)$/;
const AFTER_CARET = /^[^\s,()[\]{}|:]*/;

/**
 * The name being typed at the caret, or null. `start` and `end` enclose all of the name.
 * @param {string} text
 * @param {number} caret
 * @returns {Query | null}
 */
export function embeddingQuery(text, caret) {
  const before = text.slice(0, caret).match(BEFORE_CARET);
  if (!before) return null;
  const rest = text.slice(caret).match(AFTER_CARET)?.[0] ?? "";
  return { start: caret - before[1].length, end: caret + rest.length, typed: before[1] };
}

/**
 * The embeddings to offer: those that begin with what was typed, then those that contain it. Empty
 * if the name is complete. Those of another width come last: they cannot be used.
 * @param {Embedding[]} embeddings
 * @param {string} typed
 * @param {number} limit
 */
export function matching(embeddings, typed, limit) {
  const wanted = typed.toLowerCase();
  /** @type {[number, Embedding][]} */
  const found = [];
  for (const embedding of embeddings) {
    const at = embedding.name.toLowerCase().indexOf(wanted);
    if (at < 0) continue;
    const unusable = embedding.width !== null && embedding.width !== 1024;
    found.push([(at > 0 ? 1 : 0) + (unusable ? 2 : 0), embedding]);
  }
  if (found.length === 1 && found[0][1].name === typed) return [];
  // sort() keeps the order of equals, which is alphabetical.
  found.sort((a, b) => a[0] - b[0]);
  return found.slice(0, limit).map(([, embedding]) => embedding);
}
