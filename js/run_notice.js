// @ts-check
// What a run said about a node: its result as text, or why it failed.

import { element, fill } from "./dom.js";

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Say */

/**
 * @param {{say: Say, changed: () => void, isKnown: (line: string) => boolean}} options
 *   `isKnown` tells whether a line of an error stands elsewhere on the node
 */
export function createRunNotice({ say, changed, isKnown }) {
  const root = element("div", "sd2c-notice");
  root.hidden = true;

  /** @param {(Node | string)[]} content @param {boolean} bad */
  function show(content, bad) {
    fill(root, content);
    root.classList.toggle("sd2c-wrong", bad);
    root.hidden = content.length === 0;
    changed();
  }

  return {
    root,
    clear: () => {
      if (!root.hidden) show([], false);
    },
    /** @param {string} text */
    showResult: (text) => show([element("pre", "", text)], false),
    /** @param {string} heading a key of messages @param {string[]} lines */
    showError: (heading, lines) =>
      show(
        [
          element("b", "sd2c-bad", say(heading)),
          ...lines.filter((line) => !isKnown(line)).map((line) => element("div", "", line)),
        ],
        true,
      ),
    /** To call when `isKnown` may have changed its answer. */
    hideKnown() {
      for (const line of root.querySelectorAll("div")) {
        if (isKnown(line.textContent ?? "")) line.remove();
      }
    },
  };
}

/**
 * The errors of one node from a refused prompt, as lines.
 * @param {{errors?: {type?: string, message?: string, details?: string}[]} | undefined} nodeErrors
 */
export function refusalLines(nodeErrors) {
  return (nodeErrors?.errors ?? []).map(({ type, message, details }) => {
    // Our own validation speaks in whole sentences; ComfyUI puts "input - " before them.
    if (type === "custom_validation_failed" && details) return details.replace(/^\w+ - /, "");
    return [message, details].filter(Boolean).join(": ");
  });
}
