// @ts-check
// Shows what a run returned for a node: its result as text, or its errors.

import { element } from "./dom.js";

/** @typedef {import("./messages.js").Translate} Translate */

/**
 * @param {{translate: Translate, changed: () => void, isShown: (line: string) => boolean}} options
 *   `isShown` tells whether the node shows a line of an error elsewhere
 */
export function createRunNotice({ translate, changed, isShown }) {
  const root = element("div", "sd2c-notice");
  root.hidden = true;

  /** @param {import("./dom.js").Content} content @param {boolean} isError */
  function show(content, isError) {
    root.replaceChildren(...content);
    root.classList.toggle("sd2c-wrong", isError);
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
    /** @param {"nodeFailed" | "nodeInvalid"} heading @param {string[]} lines */
    showError: (heading, lines) =>
      show(
        [
          element("b", "sd2c-bad", translate(heading)),
          ...lines.filter((line) => !isShown(line)).map((line) => element("div", "", line)),
        ],
        true,
      ),
    /** To call when another part of the node shows something new. */
    removeDuplicates() {
      for (const line of root.querySelectorAll("div")) {
        if (isShown(line.textContent ?? "")) line.remove();
      }
    },
  };
}

/** The validation errors of one node, as lines. @param {ComfyNodeErrors | undefined} nodeErrors */
export function validationLines(nodeErrors) {
  return (nodeErrors?.errors ?? []).map(({ type, message, details }) => {
    // The messages of our own validation are complete; ComfyUI puts "input - " before them.
    if (type === "custom_validation_failed" && details) return details.replace(/^\w+ - /, "");
    return [message, details].filter(Boolean).join(": ");
  });
}
