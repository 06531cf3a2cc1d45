// @ts-check
// Shows what a run returned for a node: its result as text, or its errors.

import { element } from "./dom.js";
import { shortenPaths } from "./path_text.js";

/** @typedef {import("./messages.js").Translate} Translate */

/**
 * @param {{translate: Translate, changed: () => void, isShown: (line: string) => boolean}} options
 *   `isShown` tells whether the node shows a line elsewhere
 */
export function createRunNotice({ translate, changed, isShown }) {
  const root = element("div", "sd2c-notice");
  root.hidden = true;
  /** @type {"result" | "nodeFailed" | "nodeInvalid" | "hint" | null} */
  let shown = null;
  /** @type {string[]} */
  let lines = [];
  /** A result as a whole, where its lines are shortened. */
  let whole = "";

  function draw() {
    const others = lines.filter((line) => !isShown(line));
    root.title = "";
    if (shown === null || (shown === "result" && !others.length)) {
      root.hidden = true;
    } else if (shown === "result") {
      const result = element("pre", "", others.join("\n"));
      result.title = whole;
      root.replaceChildren(result);
      root.hidden = false;
    } else if (shown === "hint") {
      root.replaceChildren(element("div", "sd2c-bad", others.join("\n")));
      root.hidden = false;
    } else {
      const reasons = others.length ? others : [translate("reasonAbove")];
      root.replaceChildren(
        element("b", "sd2c-bad", translate(shown)),
        ...reasons.map((line) => element("div", "sd2c-reason", shortenPaths(line))),
      );
      root.title = others.join("\n");
      root.hidden = false;
    }
    root.classList.toggle("sd2c-wrong", shown !== null && shown !== "result");
    changed();
  }

  /** @param {typeof shown} what @param {string[]} text */
  function show(what, text) {
    shown = what;
    lines = text;
    draw();
  }

  return {
    root,
    /** Remove what a run has said, but not why the node has no part in the next one. */
    clear: () => {
      if (shown === "result" || shown === "nodeFailed") show(null, []);
    },
    /** Remove an error that has been attended to. @param {"nodeFailed" | "nodeInvalid" | "hint"} [kind] */
    clearError: (kind) => {
      if (shown !== null && shown !== "result" && (kind ?? shown) === shown) show(null, []);
    },
    /** @param {string[]} text @param {string[]} [complete] in the tooltip, if `text` is shortened */
    showResult: (text, complete = []) => {
      whole = complete.join("\n");
      show("result", text);
    },
    /** Say before a run what it would say. What a run has said says more. @param {string} text */
    showHint: (text) => {
      if (shown !== "nodeInvalid" && shown !== "nodeFailed") show("hint", [text]);
    },
    /** @param {"nodeFailed" | "nodeInvalid"} heading @param {string[]} text */
    showError: (heading, text) => show(heading, text),
    /** To call when another part of the node shows something new. */
    removeDuplicates() {
      if (shown !== null) draw();
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
