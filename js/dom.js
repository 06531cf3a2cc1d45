// @ts-check
// Building elements. Text is always set as text, never as markup: prompts and files are foreign.

/**
 * @param {string} tag
 * @param {string} [className]
 * @param {string | (Node | string)[]} [content]
 * @returns {HTMLElement}
 */
export function element(tag, className = "", content = []) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...(typeof content === "string" ? [content] : content));
  return made;
}

/** @param {HTMLElement} target @param {(Node | string)[]} content */
export function fill(target, content) {
  target.replaceChildren(...content);
}

/**
 * Our style sheet, to lie in a panel of ours: the page's own head is not for us to add to. It is
 * beside this script, wherever the server keeps that.
 */
export function styleSheet() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./sd2_clip.css", import.meta.url).href;
  return link;
}
