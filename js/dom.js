// @ts-check
// Builds elements. Strings become text nodes, never markup: prompts and files are untrusted.

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

/** Our style sheet, to put into each panel: the page's head is not ours to change. */
export function styleSheet() {
  const link = element("link");
  link.rel = "stylesheet";
  link.href = new URL("./sd2_clip.css", import.meta.url).href;
  return link;
}
