// @ts-check
// The extension: gives our nodes their panels, and nothing to any other node.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { createCompletion } from "./embedding_completion.js";
import { createFileCard } from "./file_card.js";
import { translate } from "./messages.js";
import { addPanel, measureMeter } from "./node_panel.js";
import { createRunNotice, refusalLines } from "./run_notice.js";
import { absoluteLayer, LAYERS } from "./token_view.js";
import { createTokenMeter } from "./token_meter.js";

const LOADER = "LoadSD2CLIP";
const TEXT_NODES = ["EncodeSD2Text", "InspectSD2Text"];
const OURS = [LOADER, ...TEXT_NODES, "SaveSD2Conditioning", "LoadSD2Conditioning", "LoadSD2CLIPLora"];
/** Nodes that hand a CLIP on, by the name of the input it comes in. */
const PASSES_CLIP = { LoadSD2CLIPLora: "clip", CLIPSetLastLayer: "", Reroute: "" };

const METER = "SD2CLIP.TokenMeter";
const COMPLETION = "SD2CLIP.EmbeddingCompletion";
const CARD = "SD2CLIP.FileCard";
/** Set where nodes are drawn as HTML, unset where on a canvas. */
const NODES_2 = "Comfy.VueNodes.Enabled";

/**
 * @typedef {{node: any, refresh: () => void, notice: ReturnType<typeof createRunNotice>,
 *   card?: ReturnType<typeof createFileCard>}} Ours
 */
/** @type {Map<any, Ours>} */
const panels = new Map();

/** @param {string} id */
function isOn(id) {
  return app.extensionManager?.setting?.get(id) ?? true;
}

/** @param {string} key @param {Record<string, string | number>} [values] */
function say(key, values) {
  return translate(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en", key, values);
}

/** @param {any} node @param {string} name */
function widgetOf(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name);
}

/** @param {any} node @param {string} name */
function isLinked(node, name) {
  const slot = node.inputs?.findIndex((/** @type {any} */ input) => input.name === name) ?? -1;
  return slot >= 0 && node.isInputConnected(slot);
}

/** Call `after` each time that `holder[name]` has done its own work. @param {any} holder
 * @param {string} name @param {(...values: any[]) => void} after */
function follow(holder, name, after) {
  const original = holder[name];
  holder[name] = function (/** @type {any[]} */ ...values) {
    const result = original?.apply(this, values);
    after(...values);
    return result;
  };
}

/** The widgets of the Load SD2 CLIP that a node's clip comes from, if it is plain to see.
 * @param {any} node */
function loaderOf(node) {
  let here = node;
  let name = "clip";
  for (let steps = 0; steps < 50; steps += 1) {
    const inputs = here.inputs ?? [];
    const slot = inputs.findIndex((/** @type {any} */ input) => !name || input.name === name);
    here = slot < 0 || !here.graph ? null : here.getInputNode?.(slot);
    if (!here) return null;
    const type = here.comfyClass ?? here.type;
    if (type === LOADER) return here;
    name = PASSES_CLIP[/** @type {keyof typeof PASSES_CLIP} */ (type)];
    if (name === undefined || type === "CLIPSetLastLayer") return null;
  }
  return null;
}

/** @param {any} node */
function loaderWidgets(node) {
  return {
    layer: String(widgetOf(node, "layer")?.value ?? "penultimate"),
    layer_idx: Number(widgetOf(node, "layer_idx")?.value ?? -2),
  };
}

/** What the tokens of a text node depend on; not every text node has every widget.
 * @param {any} node */
function promptOf(node) {
  const names = ["text", "syntax", "steps", "chunk_split"];
  const known = names.filter((name) => widgetOf(node, name) && !isLinked(node, name));
  return /** @type {import("./server.js").Prompt} */ (
    Object.fromEntries(known.map((name) => [name, widgetOf(node, name).value]))
  );
}

/** @param {any} node */
function equip(node) {
  const parts = [];
  let changed = () => {};
  /** @type {ReturnType<typeof createFileCard> | undefined} */
  let card;
  const options = { say, changed: () => changed() };
  // The reason that the card gives already is not told twice, whichever comes first.
  const notice = createRunNotice({ ...options, isKnown: (line) => card?.says(line) ?? false });
  /** @type {(() => void)[]} */
  const refreshers = [];
  /** @type {(() => void)[]} */
  const stoppers = [];

  if (node.comfyClass === LOADER) {
    const shown = (card = createFileCard({
      say,
      changed: () => {
        notice.hideKnown();
        changed();
      },
      choose: (name) => {
        const widget = widgetOf(node, "clip_name");
        widget.value = name;
        widget.callback?.(name);
      },
    }));
    parts.push({ root: shown.root });
    refreshers.push(() => {
      shown.root.hidden = !isOn(CARD);
      if (shown.root.hidden) return;
      shown.update(widgetOf(node, "clip_name")?.value, loaderWidgets(node));
    });
    stoppers.push(shown.stop);
  }

  if (TEXT_NODES.includes(node.comfyClass)) {
    const completion = createCompletion(options);
    const meter = createTokenMeter(options);
    parts.push({ root: completion.root }, { root: meter.root, measure: measureMeter(meter) });
    const text = widgetOf(node, "text");
    refreshers.push(() => {
      meter.root.hidden = !isOn(METER);
      if (meter.root.hidden) return meter.stop();
      if (isLinked(node, "text")) meter.showLinked();
      else meter.update(promptOf(node));
      showLayer(node, meter);
    });
    follow(text, "callback", () => {
      if (isOn(COMPLETION)) completion.update(String(text.value));
      else completion.close();
    });
    stoppers.push(meter.stop);
  }

  parts.push({ root: notice.root });
  const panel = addPanel(node, parts, () => !app.extensionManager?.setting?.get(NODES_2));
  changed = panel.changed;

  function refresh() {
    for (const one of refreshers) one();
    changed();
  }
  for (const widget of node.widgets) {
    if (widget.options?.serialize === false && widget.serialize === false) continue; // the panel
    follow(widget, "callback", node.comfyClass === LOADER ? refreshAll : refresh);
  }
  follow(node, "onAdded", refresh);
  follow(node, "onConfigure", refresh);
  follow(node, "onConnectionsChange", refreshAll);
  follow(node, "onExecuted", (output) => {
    if (output?.text?.length) notice.showResult(output.text.join("\n"));
  });
  follow(node, "onRemoved", () => {
    panels.delete(node);
    for (const stop of stoppers) stop();
  });
  panels.set(node, { node, refresh, notice, card });
  refresh();
}

/** @param {any} node @param {ReturnType<typeof createTokenMeter>} meter */
function showLayer(node, meter) {
  const loader = loaderOf(node);
  const stop = Number(widgetOf(node, "stop_at_clip_layer")?.value ?? 0);
  const number = absoluteLayer(stop, loader && loaderWidgets(loader));
  if (number === null) return meter.setLayer(say("layerLoaded"), false);
  const inFile = panels.get(loader)?.card?.layers() ?? LAYERS;
  if (number > inFile) return meter.setLayer(say("layerAbsent", { number }), true);
  const key = number === LAYERS - 1 ? "layerSD2" : "layer";
  meter.setLayer(say(key, { number, count: LAYERS }), false);
}

let isRefreshPlanned = false;

/** What one node shows may depend on another: its loader, three links away. */
function refreshAll() {
  if (isRefreshPlanned) return;
  isRefreshPlanned = true;
  setTimeout(() => {
    isRefreshPlanned = false;
    for (const { refresh } of panels.values()) refresh();
  }, 0);
}

/** Our node with an execution id: "5", or "2:5" inside subgraph node 2. @param {unknown} id */
function panelOf(id) {
  const path = String(id).split(":");
  const root = app.rootGraph ?? app.graph;
  for (const panel of panels.values()) {
    const isInRoot = panel.node.graph === root;
    if (String(panel.node.id) === path.at(-1) && isInRoot === (path.length === 1)) return panel;
  }
  return undefined;
}

/** @type {unknown} */
let refusalSeen = null;

/** No event tells that a prompt was refused; the reasons are left on the app. */
function lookForRefusal() {
  const refusal = app.lastNodeErrors;
  if (refusal === refusalSeen) return;
  refusalSeen = refusal;
  for (const [id, errors] of Object.entries(refusal ?? {})) {
    const panel = panelOf(id);
    const lines = refusalLines(errors);
    if (!panel || !lines.length) continue;
    panel.notice.showError("refused", lines);
  }
}

app.registerExtension({
  name: "sd2clip.panels",
  settings: [
    {
      id: METER,
      category: ["SD2 CLIP", "Panels", "Token meter"],
      name: "Show the tokens of a prompt while it is typed",
      type: "boolean",
      defaultValue: true,
      onChange: refreshAll,
    },
    {
      id: COMPLETION,
      category: ["SD2 CLIP", "Panels", "Embedding completion"],
      name: "Offer the names of embeddings after embedding:",
      type: "boolean",
      defaultValue: true,
    },
    {
      id: CARD,
      category: ["SD2 CLIP", "Panels", "File card"],
      name: "Say what a chosen model file holds",
      type: "boolean",
      defaultValue: true,
      onChange: refreshAll,
    },
  ],
  setup() {
    api.addEventListener("execution_start", () => {
      for (const { notice } of panels.values()) notice.clear();
    });
    api.addEventListener("execution_error", (/** @type {any} */ { detail }) => {
      const message = detail.exception_message.trim();
      panelOf(detail.node_id)?.notice.showError("failed", [message]);
    });
    setInterval(lookForRefusal, 500);
  },
  nodeCreated(/** @type {any} */ node) {
    if (OURS.includes(node.comfyClass)) equip(node);
  },
});
