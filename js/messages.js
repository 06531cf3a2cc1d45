// @ts-check
// The texts of our panels: English here, other languages from locales/<language>/main.json.

/** The key of our texts in main.json: the frontend merges the files of all node packs. */
export const NAMESPACE = "SD2CLIP";

/** Texts with a count have a form for each plural category of their language. */
export const ENGLISH = {
  tokens: { one: "{n} token", other: "{n} tokens" },
  chunks: { one: "{n} chunk", other: "{n} chunks" },
  vectors: { one: "{n} vector", other: "{n} vectors" },
  prompts: { one: "{n} prompt", other: "{n} prompts" },
  spill: {
    one: "{n} token spills into chunk {number}",
    other: "{n} tokens spill into chunk {number}",
  },
  fill: "{n} of {capacity}",
  chunkBorder: "chunk {number}",
  cut: "split across chunks: {words}",
  ignored: "embedding:{name} is ignored: {reason}",
  choices: "Each run draws one option of every choice in braces; the longest are counted here.",
  drawsOwn: "Inspect SD2 Text draws its own options; those of Encode SD2 Text may differ.",
  linked: "The text comes from another node; its tokens are not known before a run.",
  empty: "Type a prompt to see its tokens.",
  layer: "layer {number} of {count}",
  layerDefault: "layer {number} of {count} (SD2 default)",
  layerAsLoaded: "layer as loaded",
  layerMissing: "layer {n} of {count}: layer {number} is not in the file",
  weight: "weight {weight}",
  id: "id {id}",
  wrongWidth: "width {width}: not for SD2",
  completionKeys: "Tab inserts, ↑↓ select, Esc closes",
  unreachable: "No tokens: the server does not respond.",
  reading: "Reading the file…",
  layers: "{n} of {count} layers",
  projection: "with projection",
  noProjection: "no projection",
  selectedLayerMissing:
    "The file has layers 1 to {n}, which is all that SD2 needs. Layer {number}, selected here, is missing. Choose penultimate.",
  chooseInstead: "Choose instead:",
  moreFiles: "… and {n} more in the list",
  conditioningMissing:
    "This file is not there. Save it with Save SD2 Conditioning, or choose one of the list.",
  noModel: "No model file found. Put one into a models folder, then refresh (R).",
  alsoContains: "also contains: {parts}",
  nodeFailed: "This node failed",
  nodeInvalid: "This node cannot run",
  reasonAbove: "The reason is above.",
  moreNotes: "and {n} more",
  moreParts: { one: "and {n} more prompt", other: "and {n} more prompts" },
  syntaxOption: "{name} syntax",
  weightsOption: "{name} weights",
};

/**
 * @typedef {keyof typeof ENGLISH} Key
 * @typedef {Partial<Record<string, string>>} PluralForms
 * @typedef {Partial<Record<string, string | PluralForms>>} Texts
 * @typedef {Record<string, string | number>} Values
 * @typedef {(key: Key, values?: Values) => string} Translate
 */

/**
 * The text of a key in a language, in English where `translations` lacks the language or the key.
 * @param {Record<string, {[NAMESPACE]?: Texts}>} translations by locale code, as GET /i18n has them
 * @param {string} locale
 * @param {Key} key
 * @param {Values} [values] `n` selects the plural form
 */
export function translate(translations, locale, key, values = {}) {
  const translated = translations[locale]?.[NAMESPACE]?.[key];
  const text = translated ?? ENGLISH[key];
  const form = typeof text === "string" ? text : pluralForm(text, translated ? locale : "en", values);
  return form.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** @param {PluralForms} forms @param {string} locale @param {Values} values */
function pluralForm(forms, locale, { n }) {
  return forms[new Intl.PluralRules(locale).select(Number(n))] ?? forms.other ?? "";
}
