// @ts-check
// The frontend extension: adds panels to our nodes, and changes no other node.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { createCompletion } from "./embedding_completion.js";
import { createFileCard } from "./file_card.js";
import { translate as translateTo } from "./messages.js";
import { isLinked, LOADER, loaderLayer, loaderOf, promptOf, widgetOf } from "./node_graph.js";
import { addPanel, measureMeter } from "./node_panel.js";
import { createRunNotice, validationLines } from "./run_notice.js";
import { fetchTranslations } from "./server.js";
import { absoluteLayer, LAYERS } from "./token_view.js";
import { createTokenMeter } from "./token_meter.js";

const INSPECTOR = "InspectSD2Text";
const TEXT_NODES = ["EncodeSD2Text", INSPECTOR];
const NODES = [LOADER, ...TEXT_NODES, "SaveSD2Conditioning", "LoadSD2Conditioning", "LoadSD2CLIPLora"];

const METER = "SD2CLIP.TokenMeter";
const COMPLETION = "SD2CLIP.EmbeddingCompletion";
const CARD = "SD2CLIP.FileCard";
/** The frontend's own settings. */
const LOCALE = "Comfy.Locale";
const NODES_2 = "Comfy.VueNodes.Enabled";

/** Milliseconds between two looks at the app's validation errors. */
const VALIDATION_INTERVAL = 500;

/**
 * @typedef {{node: ComfyNode, refresh: () => void, notice: ReturnType<typeof createRunNotice>,
 *   card: ReturnType<typeof createFileCard> | null}} Panel
 */
/** @type {Map<ComfyNode, Panel>} */
const panels = new Map();

/** @type {Awaited<ReturnType<typeof fetchTranslations>>} */
let translations = {};

/** @type {import("./messages.js").Translate} */
function translate(key, values) {
  const locale = app.extensionManager?.setting?.get(LOCALE);
  return translateTo(translations, String(locale ?? "en"), key, values);
}

/** @param {string} setting */
function isEnabled(setting) {
  return Boolean(app.extensionManager?.setting?.get(setting) ?? true);
}

/**
 * Calls `after` each time that a method of the frontend's object has returned.
 * @template {string} Name
 * @param {{[name in Name]?: ((...values: any[]) => any) | null}} holder
 * @param {Name} name
 * @param {(...values: any[]) => void} after
 */
function callAfter(holder, name, after) {
  const original = holder[name];
  holder[name] = function (/** @type {any[]} */ ...values) {
    const result = original?.apply(this, values);
    after(...values);
    return result;
  };
}

/** @param {ComfyNode} node */
function attachPanel(node) {
  /** @type {import("./node_panel.js").Part[]} */
  const parts = [];
  /** @type {(() => void)[]} */
  const refreshers = [];
  /** @type {(() => void)[]} */
  const stoppers = [];
  let changed = () => {};
  /** @type {ReturnType<typeof createFileCard> | null} */
  let card = null;
  const options = { translate, changed: () => changed() };
  const notice = createRunNotice({ ...options, isShown: (line) => card?.shows(line) ?? false });

  if (node.comfyClass === LOADER) {
    const created = createFileCard({
      translate,
      changed: () => {
        notice.removeDuplicates();
        changed();
      },
      choose: (name) => {
        const widget = widgetOf(node, "clip_name");
        if (!widget) return;
        widget.value = name;
        widget.callback?.(name);
      },
    });
    card = created;
    parts.push({ root: created.root });
    refreshers.push(() => {
      created.root.hidden = !isEnabled(CARD);
      if (created.root.hidden) return;
      const name = widgetOf(node, "clip_name")?.value;
      created.update(name ? String(name) : undefined, loaderLayer(node));
    });
    stoppers.push(created.stop);
  }

  const text = widgetOf(node, "text");
  if (TEXT_NODES.includes(node.comfyClass ?? "") && text) {
    const completion = createCompletion(options);
    const meter = createTokenMeter(options, node.comfyClass === INSPECTOR);
    parts.push({ root: completion.root }, { root: meter.root, measure: measureMeter(meter) });
    refreshers.push(() => {
      meter.root.hidden = !isEnabled(METER);
      if (meter.root.hidden) return meter.stop();
      if (isLinked(node, "text")) meter.showLinked();
      else meter.update(promptOf(node));
      showLayer(node, meter);
    });
    callAfter(text, "callback", () => {
      if (isEnabled(COMPLETION)) completion.update(String(text.value));
      else completion.close();
    });
    stoppers.push(meter.stop);
  }

  const ownWidgets = [...node.widgets];
  parts.push({ root: notice.root });
  const panel = addPanel(node, parts, () => !app.extensionManager?.setting?.get(NODES_2));
  changed = panel.changed;

  function refresh() {
    for (const one of refreshers) one();
    changed();
  }
  for (const widget of ownWidgets) {
    callAfter(widget, "callback", node.comfyClass === LOADER ? refreshAll : refresh);
  }
  callAfter(node, "onAdded", refresh);
  callAfter(node, "onConfigure", refresh);
  callAfter(node, "onConnectionsChange", refreshAll);
  callAfter(node, "onExecuted", (/** @type {{text?: string[]} | undefined} */ output) => {
    if (output?.text?.length) notice.showResult(output.text.join("\n"));
  });
  callAfter(node, "onRemoved", () => {
    panels.delete(node);
    for (const stop of stoppers) stop();
  });
  panels.set(node, { node, refresh, notice, card });
  refresh();
}

/** @param {ComfyNode} node @param {ReturnType<typeof createTokenMeter>} meter */
function showLayer(node, meter) {
  const loader = loaderOf(node);
  const stop = Number(widgetOf(node, "stop_at_clip_layer")?.value ?? 0);
  const number = absoluteLayer(stop, loader && loaderLayer(loader));
  if (number === null) return meter.setLayer(translate("layerAsLoaded"), false);
  const inFile = (loader && panels.get(loader)?.card?.layers()) ?? LAYERS;
  if (number > inFile) return meter.setLayer(translate("layerMissing", { number }), true);
  const key = number === LAYERS - 1 ? "layerDefault" : "layer";
  meter.setLayer(translate(key, { number, count: LAYERS }), false);
}

let isRefreshScheduled = false;

/** Refreshes all panels: what a text node shows depends on its loader. */
function refreshAll() {
  if (isRefreshScheduled) return;
  isRefreshScheduled = true;
  setTimeout(() => {
    isRefreshScheduled = false;
    for (const { refresh } of panels.values()) refresh();
  }, 0);
}

/** The panel of an execution id: "5", or "2:5" inside subgraph node 2. @param {unknown} id */
function panelOf(id) {
  const path = String(id).split(":");
  const root = app.rootGraph ?? app.graph;
  for (const panel of panels.values()) {
    const isInRoot = panel.node.graph === root;
    if (String(panel.node.id) === path.at(-1) && isInRoot === (path.length === 1)) return panel;
  }
  return undefined;
}

/** @type {ComfyApp["lastNodeErrors"]} */
let shownErrors = null;

/** Shows new validation errors. The frontend sends no event for them, it only keeps them. */
function showValidationErrors() {
  const nodeErrors = app.lastNodeErrors;
  if (nodeErrors === shownErrors) return;
  shownErrors = nodeErrors;
  for (const [id, errors] of Object.entries(nodeErrors ?? {})) {
    const lines = validationLines(errors);
    if (lines.length) panelOf(id)?.notice.showError("nodeInvalid", lines);
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
      name: "Suggest embedding names after embedding:",
      type: "boolean",
      defaultValue: true,
    },
    {
      id: CARD,
      category: ["SD2 CLIP", "Panels", "File card"],
      name: "Show what the chosen model file contains",
      type: "boolean",
      defaultValue: true,
      onChange: refreshAll,
    },
  ],
  async init() {
    // Awaited by the frontend before it loads a workflow.
    translations = await fetchTranslations();
  },
  setup() {
    api.addEventListener("execution_start", () => {
      for (const { notice } of panels.values()) notice.clear();
    });
    api.addEventListener("execution_error", ({ detail }) => {
      panelOf(detail.node_id)?.notice.showError("nodeFailed", [detail.exception_message.trim()]);
    });
    setInterval(showValidationErrors, VALIDATION_INTERVAL);
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass ?? "")) attachPanel(node);
  },
});
