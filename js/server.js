// @ts-check
// Requests to the server's routes, under whatever path the server is mounted.

import { api } from "../../scripts/api.js";

/** @param {string} path @param {RequestInit} [options] */
async function fetchJson(path, options) {
  const response = await api.fetchApi(path, options);
  const answer = await response.json();
  if (!response.ok && !answer.error) throw new Error(`${path}: ${response.status}`);
  return answer;
}

/**
 * @typedef {{text: string, syntax?: string, steps?: number, chunk_split?: string,
 *   padding?: string}} Prompt
 * @param {Prompt} prompt
 * @param {AbortSignal} signal
 * @returns {Promise<import("./token_view.js").Answer | {error: string}>}
 */
export function fetchTokens(prompt, signal) {
  return fetchJson("/sd2_clip/tokenize", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(prompt),
    signal,
  });
}

/**
 * @typedef {{layout: string, family: string, layers: number, model_layers: number, dtype: string,
 *   bytes: number, has_projection: boolean, contents: string[], suspicious: string[],
 *   notes: string[]}} FileFacts
 * @typedef {{error: string, summary?: string, alternatives?: string[],
 *   more_alternatives?: number}} FileError `summary` is the error without the alternatives
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<FileFacts | FileError>}
 */
export function fetchFile(name, signal) {
  return fetchJson(`/sd2_clip/inspect?clip_name=${encodeURIComponent(name)}`, { signal });
}

/**
 * The files that Load SD2 Conditioning offers now.
 * @returns {Promise<string[]>}
 */
export async function fetchConditioningNames() {
  const type = "LoadSD2Conditioning";
  const definitions = await fetchJson(`/object_info/${type}`);
  return definitions[type].input.required.conditioning_name[0];
}

const EMBEDDINGS_MAX_AGE = 10_000;
/** @type {{time: number, answer: Promise<import("./completion.js").Embedding[]>} | null} */
let embeddings = null;

/** All textual inversions; the list is cached for a few seconds. */
export function fetchEmbeddings() {
  if (embeddings === null || Date.now() - embeddings.time > EMBEDDINGS_MAX_AGE) {
    const answer = fetchJson("/sd2_clip/embeddings").then((found) => found.embeddings);
    embeddings = { time: Date.now(), answer };
    answer.catch(() => {
      embeddings = null;
    });
  }
  return embeddings.answer;
}

/**
 * The translations of all node packs by locale code; none where the server has no such route.
 * @returns {Promise<Parameters<typeof import("./messages.js").translate>[0]>}
 */
export async function fetchTranslations() {
  try {
    return await fetchJson("/i18n");
  } catch {
    return {};
  }
}
