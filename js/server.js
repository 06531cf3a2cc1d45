// @ts-check
// Our questions to the server, under whatever path it lives.

import { api } from "../../scripts/api.js";

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, options) {
  const response = await api.fetchApi(path, options);
  const answer = await response.json();
  if (!response.ok && !answer.error) throw new Error(`${path}: ${response.status}`);
  return answer;
}

/**
 * @typedef {{text: string, syntax?: string, steps?: number, chunk_split?: string}} Prompt
 * @param {Prompt} prompt
 * @param {AbortSignal} signal
 */
export function askTokens(prompt, signal) {
  return ask("/sd2_clip/tokenize", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(prompt),
    signal,
  });
}

/** @param {string} name @param {AbortSignal} signal */
export function askFile(name, signal) {
  return ask(`/sd2_clip/inspect?clip_name=${encodeURIComponent(name)}`, { signal });
}

const EMBEDDINGS_AGE = 10_000;
/** @type {{asked: number, answer: Promise<import("./completion.js").Embedding[]>} | null} */
let embeddings = null;

/** All textual inversions, asked for again when the answer is older than a few seconds. */
export function askEmbeddings() {
  if (embeddings === null || Date.now() - embeddings.asked > EMBEDDINGS_AGE) {
    const answer = ask("/sd2_clip/embeddings").then((found) => found.embeddings);
    embeddings = { asked: Date.now(), answer };
    answer.catch(() => {
      embeddings = null;
    });
  }
  return embeddings.answer;
}
