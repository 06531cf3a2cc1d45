// @ts-check
// The card of Load SD2 CLIP: what the chosen file holds, before anything runs.

import { element, fill } from "./dom.js";
import { latest } from "./latest.js";
import { askFile } from "./server.js";
import { absoluteLayer, headingAndRest, sizeText } from "./token_view.js";

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Say */
/** @typedef {Record<string, any>} FileFacts the answer of /sd2_clip/inspect */

const PAUSE = 60;

/**
 * @param {{say: Say, changed: () => void, choose: (name: string) => void}} options
 */
export function createFileCard({ say, changed, choose }) {
  const root = element("div", "sd2c-card");
  /** @type {{name: string, facts: FileFacts} | null} */
  let known = null;
  let loader = { layer: "penultimate", layer_idx: -2 };

  const asking = latest(PAUSE, async (/** @type {string} */ name, signal) => {
    let facts;
    try {
      facts = await askFile(name, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      facts = { error: String(error) };
    }
    if (signal.aborted) return;
    known = { name, facts };
    draw();
  });

  function draw() {
    if (known === null) return;
    const { facts } = known;
    root.classList.toggle("sd2c-wrong", Boolean(facts.error));
    fill(root, facts.error ? wrongParts(facts) : goodParts(facts));
    changed();
  }

  /** @param {FileFacts} facts */
  function wrongParts(facts) {
    const [heading, rest] = headingAndRest(facts.error);
    const parts = [element("b", "sd2c-bad", heading), element("div", "", rest)];
    if (facts.alternatives?.length) {
      const buttons = facts.alternatives.map((/** @type {string} */ name) => {
        const button = element("button", "sd2c-choice", name);
        button.addEventListener("click", () => choose(name));
        return button;
      });
      parts.push(element("div", "sd2c-instead", [say("chooseInstead"), ...buttons]));
    }
    return parts;
  }

  /** @param {FileFacts} facts */
  function goodParts(facts) {
    const line = [
      facts.layout,
      say("layers", { n: facts.layers, count: facts.model_layers }),
      facts.dtype,
      sizeText(facts.bytes),
      say(facts.has_projection ? "projection" : "noProjection"),
    ];
    const parts = [element("b", "", facts.family), element("div", "", line.join(" · "))];
    if (facts.contents.length) {
      parts.push(element("div", "sd2c-hint", say("also", { parts: facts.contents.join(", ") })));
    }
    const wanted = absoluteLayer(0, loader) ?? 0;
    if (wanted > facts.layers) {
      const text = say("lastAbsent", { n: facts.layers, wanted });
      parts.push(element("div", "sd2c-warning", text));
    }
    for (const note of [...facts.suspicious, ...facts.notes]) {
      parts.push(element("div", "sd2c-hint", note));
    }
    return parts;
  }

  return {
    root,
    /**
     * @param {string | undefined} name
     * @param {{layer: string, layer_idx: number}} widgets
     */
    update(name, widgets) {
      loader = widgets;
      if (!name) {
        asking.cancel();
        known = { name: "", facts: { error: say("noModel") } };
        return draw();
      }
      if (known?.name === name) return draw();
      known = null;
      root.classList.remove("sd2c-wrong");
      fill(root, [element("span", "sd2c-hint", say("looking"))]);
      changed();
      asking.schedule(name);
    },
    /** Whether the card already says this, maybe with another spelling of the path. */
    says(/** @type {string} */ message) {
      const error = known?.facts.error;
      return Boolean(error) && afterPath(message) === afterPath(error);
    },
    /** Real layers in the file, or null if that is not known. */
    layers() {
      return known?.facts.layers ?? null;
    },
    stop: asking.cancel,
  };
}

/** @param {string} message */
function afterPath(message) {
  return message.slice(message.indexOf(": ") + 2).trim();
}
