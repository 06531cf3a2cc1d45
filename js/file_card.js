// @ts-check
// The file card of Load SD2 CLIP: what the chosen file contains, before a run.

import { debounce } from "./debounce.js";
import { element, withPaths } from "./dom.js";
import { shortPath } from "./path_text.js";
import { fetchFile } from "./server.js";
import { absoluteLayer, headingAndRest, sizeText } from "./token_view.js";

/** @typedef {import("./messages.js").Translate} Translate */
/** @typedef {import("./server.js").FileFacts} FileFacts */
/** @typedef {import("./server.js").FileError} FileError */
/** @typedef {import("./token_view.js").LoaderLayer} LoaderLayer */

const DELAY = 60;

/**
 * @param {{translate: Translate, changed: () => void, choose: (name: string) => void}} options
 */
export function createFileCard({ translate, changed, choose }) {
  const root = element("div", "sd2c-card");
  /** @type {{name: string, answer: FileFacts | FileError} | null} */
  let shown = null;
  /** @type {LoaderLayer} */
  let loaderLayer = { layer: "penultimate", layer_idx: -2 };

  const request = debounce(DELAY, async (/** @type {string} */ name, signal) => {
    /** @type {FileFacts | FileError} */
    let answer;
    try {
      answer = await fetchFile(name, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      answer = { error: String(error) };
    }
    if (signal.aborted) return;
    shown = { name, answer };
    draw();
  });

  function draw() {
    if (shown === null) return;
    const { answer } = shown;
    root.classList.toggle("sd2c-wrong", "error" in answer);
    root.replaceChildren(...("error" in answer ? errorContent(answer) : factsContent(answer)));
    changed();
  }

  /** The verdict, then what to do about it, then the details. @param {FileError} answer */
  function errorContent({ error, summary, alternatives = [], more_alternatives: more = 0 }) {
    const [verdict, details] = headingAndRest(summary ?? error);
    const content = [withPaths("b", "sd2c-bad", verdict)];
    if (alternatives.length) {
      const buttons = alternatives.map((name) => {
        const button = element("button", "sd2c-choice", shortPath(name));
        button.title = name;
        button.addEventListener("click", () => choose(name));
        return button;
      });
      const others = more > 0 ? [translate("moreFiles", { n: more })] : [];
      const offered = [translate("chooseInstead"), ...buttons, ...others];
      content.push(element("div", "sd2c-alternatives", offered));
    }
    const rest = withPaths("div", "sd2c-details", details);
    rest.title = details; // a few lines of it are shown
    content.push(rest);
    return content;
  }

  /** @param {FileFacts} facts */
  function factsContent(facts) {
    const summary = [
      facts.layout,
      translate("layers", { n: facts.layers, count: facts.model_layers }),
      facts.dtype,
      sizeText(facts.bytes),
      translate(facts.has_projection ? "projection" : "noProjection"),
    ];
    const content = [element("b", "", facts.family), element("div", "", summary.join(" · "))];
    if (facts.contents.length) {
      const text = translate("alsoContains", { parts: facts.contents.join(", ") });
      content.push(element("div", "sd2c-hint", text));
    }
    const number = absoluteLayer(0, loaderLayer) ?? 0;
    if (number > facts.layers) {
      const text = translate("selectedLayerMissing", { n: facts.layers, number });
      content.push(element("div", "sd2c-warning", text));
    }
    for (const note of [...facts.suspicious, ...facts.notes]) {
      content.push(element("div", "sd2c-hint", note));
    }
    return content;
  }

  return {
    root,
    /** @param {string | undefined} name @param {LoaderLayer} layer */
    update(name, layer) {
      loaderLayer = layer;
      if (!name) {
        request.cancel();
        shown = { name: "", answer: { error: translate("noModel") } };
        return draw();
      }
      if (shown?.name === name) return draw();
      shown = null;
      root.classList.remove("sd2c-wrong");
      root.replaceChildren(element("span", "sd2c-hint", translate("reading")));
      changed();
      request.schedule(name);
    },
    /** Whether the card shows this error, whatever path precedes it, or this line of info. */
    shows(/** @type {string} */ message) {
      if (shown === null || root.hidden) return false;
      const { answer } = shown;
      if ("error" in answer) return withoutPath(message) === withoutPath(answer.error);
      return [...answer.suspicious, ...answer.notes].some((note) => message.endsWith(note));
    },
    /** The number of layers in the file, or null if that is not known. */
    layers() {
      return shown === null || "error" in shown.answer ? null : shown.answer.layers;
    },
    stop: request.cancel,
  };
}

/** @param {string} message */
function withoutPath(message) {
  return message.slice(message.indexOf(": ") + 2).trim();
}
