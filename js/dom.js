// @ts-check
// Builds elements. Strings become text nodes, never markup: prompts and files are untrusted.

import { shortenPaths } from "./path_text.js";

/** @typedef {(Node | string)[]} Content */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} [className]
 * @param {string | Content} [content]
 */
export function element(tag, className = "", content = []) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  created.append(...(typeof content === "string" ? [content] : content));
  return created;
}

/**
 * An element with a text whose long paths are shortened, and whole in its tooltip.
 * @param {"b" | "div"} tag @param {string} className @param {string} text
 */
export function withPaths(tag, className, text) {
  const created = element(tag, className, shortenPaths(text));
  if (created.textContent !== text) created.title = text;
  return created;
}

/** Our style sheet, to put into each panel: the page's head is not ours to change. */
export function styleSheet() {
  const link = element("link");
  link.rel = "stylesheet";
  link.href = new URL("./sd2_clip.css", import.meta.url).href;
  return link;
}
