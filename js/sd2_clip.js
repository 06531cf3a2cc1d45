// @ts-check
// The frontend extension: adds panels to our nodes, and changes no other node.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { debounce } from "./debounce.js";
import { createCompletion } from "./embedding_completion.js";
import { createFileCard } from "./file_card.js";
import { translate as translateTo } from "./messages.js";
import {
  callAfter,
  chooseValue,
  hasConditioning,
  isLinked,
  LOADER,
  loaderLayer,
  loaderOf,
  promptOf,
  widgetOf,
} from "./node_graph.js";
import { addPanel, measureMeter } from "./node_panel.js";
import { shortenSaved } from "./path_text.js";
import { createRunNotice, validationLines } from "./run_notice.js";
import { dropRetiredValues, savedNames } from "./saved_widgets.js";
import { fetchConditioningNames, fetchFile, fetchTranslations } from "./server.js";
import { absoluteLayer, LAYERS } from "./token_view.js";
import { createTokenMeter } from "./token_meter.js";

const INSPECTOR = "InspectSD2Text";
const TEXT_NODES = ["EncodeSD2Text", INSPECTOR];
const LOADERS = [LOADER, "LoadSD2CLIPLora"];
const SAVER = "SaveSD2Conditioning";
const READER = "LoadSD2Conditioning";
const TEXT_LIST = "EncodeSD2TextList";
const NODES = [...LOADERS, ...TEXT_NODES, TEXT_LIST, SAVER, READER, "LoadSD2Embeddings"];

/** Widgets whose options are labelled: the names alone are alike. */
const LABELS = /** @type {const} */ ({ syntax: "syntaxOption", weight_interpretation: "weightsOption" });

const METER = "SD2CLIP.TokenMeter";
const COMPLETION = "SD2CLIP.EmbeddingCompletion";
const CARD = "SD2CLIP.FileCard";
/** The frontend's own settings. */
const LOCALE = "Comfy.Locale";
const NODES_2 = "Comfy.VueNodes.Enabled";

/** Milliseconds between two looks at the app's validation errors. */
const VALIDATION_INTERVAL = 500;
/** Milliseconds after a file was saved: one run may save several. */
const SAVED_DELAY = 300;

/**
 * @typedef {{node: ComfyNode, refresh: (force?: boolean) => void,
 *   notice: ReturnType<typeof createRunNotice>,
 *   card: ReturnType<typeof createFileCard> | null}} Panel
 * @typedef {{text?: string[], conditioning?: SavedFile[]}} Output of a node's run
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
  const notice = createRunNotice({
    ...options,
    isShown: (line) => card?.shows(line) ?? false,
  });

  if (node.comfyClass === LOADER) {
    let layers = /** @type {number | null} */ (null);
    const created = createFileCard({
      translate,
      changed: () => {
        notice.removeDuplicates();
        changed();
        if (created.layers() === layers) return;
        layers = created.layers();
        refreshAll(); // the text nodes say which layer they get
      },
      choose: (name) => chooseValue(node, "clip_name", name),
    });
    card = created;
    parts.push({ root: created.root });
    refreshers.push(() => {
      created.root.hidden = !isEnabled(CARD);
      if (created.root.hidden) return;
      const name = widgetOf(node, "clip_name")?.value;
      created.update(name ? String(name) : undefined, loaderLayer(node));
    });
    refreshers.push(() => {
      const index = widgetOf(node, "layer_idx");
      if (!index) return;
      index.disabled = !isLinked(node, "layer") && loaderLayer(node).layer !== "hidden";
    });
    stoppers.push(created.stop);
    chooseFirstGoodFile(node);
  }

  if (node.comfyClass === READER) {
    offerConditioning(node);
    refreshers.push(() => checkConditioning(node, notice));
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
      if (!meter.root.hidden && !isLinked(node, "text")) meter.update(promptOf(node));
    });
    stoppers.push(meter.stop);
  }

  const lines = widgetOf(node, "texts");
  if (node.comfyClass === TEXT_LIST && lines) {
    const completion = createCompletion(options);
    parts.push({ root: completion.root });
    callAfter(lines, "callback", () => {
      if (isEnabled(COMPLETION)) completion.update(String(lines.value));
      else completion.close();
    });
  }

  for (const [name, key] of Object.entries(LABELS)) {
    const widget = widgetOf(node, name);
    if (!widget) continue;
    widget.options ??= {};
    widget.options.getOptionLabel = (value) => translate(key, { name: String(value ?? "") });
  }

  const ownWidgets = [...(node.widgets ?? [])];
  parts.push({ root: notice.root });
  let isStale = true;
  const panel = addPanel(node, parts, {
    isHtml: () => Boolean(app.extensionManager?.setting?.get(NODES_2)),
    appeared: () => {
      if (isStale) refresh();
      changed();
    },
  });
  changed = panel.changed;

  /** Refresh the panel, or remember to when it comes into view. @param {boolean} [force] */
  function refresh(force = false) {
    isStale = !panel.isVisible() && !force;
    if (isStale) return;
    for (const one of refreshers) one();
    changed();
  }
  for (const widget of ownWidgets) {
    callAfter(widget, "callback", () => {
      notice.clearError();
      letErrorsEnd(node, widget.name);
    });
    if (widget === text) continue; // has a refresh of its own, for every key
    callAfter(widget, "callback", () => (node.comfyClass === LOADER ? refreshAll() : refresh()));
  }
  callAfter(node, "onAdded", () => refresh());
  callAfter(node, "onConfigure", () => {
    panel.configured();
    refresh();
  });
  callAfter(node, "onConnectionsChange", refreshAll);
  callAfter(node, "onExecuted", (/** @type {Output | undefined} */ output) => {
    const lines = output?.text;
    if (!lines) return;
    const [saved] = output.conditioning ?? [];
    if (saved) notice.showResult(lines.map((line) => shortenSaved(line, saved)), lines);
    else notice.showResult(lines);
  });
  callAfter(node, "onRemoved", () => {
    panels.delete(node);
    panel.stop();
    for (const stop of stoppers) stop();
  });
  panels.set(node, { node, refresh, notice, card });
  refresh();
}

/**
 * Lets a loader that the user adds start with a file that it can load, if the first of the list is
 * none. One that comes from a workflow keeps its file.
 * @param {ComfyNode} node
 */
function chooseFirstGoodFile(node) {
  let isConfigured = false;
  callAfter(node, "onConfigure", () => {
    isConfigured = true;
  });
  setTimeout(async () => {
    const first = widgetOf(node, "clip_name")?.value;
    if (isConfigured || !node.graph || !first) return;
    const answer = await fetchFile(String(first), new AbortController().signal).catch(() => null);
    const isUntouched = widgetOf(node, "clip_name")?.value === first && !isConfigured;
    if (!answer || !("error" in answer) || !isUntouched) return;
    const [good] = answer.alternatives ?? [];
    if (good) chooseValue(node, "clip_name", good);
  }, 0);
}

/** The files that Load SD2 Conditioning offers; null as long as the page's own list holds. */
let conditioningNames = /** @type {string[] | null} */ (null);

/** Gives all Load SD2 Conditioning the list of now, which the frontend reads on "R" alone. */
async function refreshConditioning() {
  conditioningNames = await fetchConditioningNames().catch(() => conditioningNames);
  for (const { node, refresh } of panels.values()) if (node.comfyClass === READER) refresh();
}

const conditioningSaved = debounce(SAVED_DELAY, refreshConditioning);

/** @param {ComfyNode} node */
function offerConditioning(node) {
  const options = widgetOf(node, "conditioning_name")?.options;
  if (options && conditioningNames) options.values = conditioningNames;
}

/**
 * Says that a file of Load SD2 Conditioning is not there, before a run does.
 * @param {ComfyNode} node @param {ReturnType<typeof createRunNotice>} notice
 */
async function checkConditioning(node, notice) {
  const widget = widgetOf(node, "conditioning_name");
  if (!widget) return;
  const isThere = () => {
    offerConditioning(node);
    const names = widget.options?.values;
    const name = String(widget.value ?? "");
    return !Array.isArray(names) || !name || hasConditioning(names, name);
  };
  const isToBeChecked = !isLinked(node, "conditioning_name") && !isThere();
  // The list may be older than the file.
  if (isToBeChecked) conditioningNames = await fetchConditioningNames().catch(() => null);
  if (isToBeChecked && !isThere()) {
    notice.showHint(translate("conditioningMissing"));
  } else {
    notice.clearError("hint");
  }
}

/** @param {ComfyNode} node @param {ReturnType<typeof createTokenMeter>} meter */
function showLayer(node, meter) {
  const loader = loaderOf(node);
  const stop = Number(widgetOf(node, "stop_at_clip_layer")?.value ?? 0);
  const number = absoluteLayer(stop, loader && loaderLayer(loader));
  if (number === null) return meter.setLayer(translate("layerAsLoaded"), false);
  const panel = loader && panels.get(loader);
  // A loader off the screen has not looked at its file; most prompts need not know.
  if (number === LAYERS && panel?.card?.layers() === null) panel.refresh(true);
  const inFile = panel?.card?.layers() ?? LAYERS;
  if (number > inFile) {
    const missing = translate("layerMissing", { n: inFile, number, count: LAYERS });
    return meter.setLayer(missing, true);
  }
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
  const invalid = new Set();
  for (const [id, errors] of Object.entries(nodeErrors ?? {})) {
    const panel = panelOf(id);
    const lines = validationLines(errors);
    if (!panel || !lines.length) continue;
    panel.notice.showError("nodeInvalid", lines);
    invalid.add(panel);
  }
  for (const panel of panels.values()) {
    if (!invalid.has(panel)) panel.notice.clearError("nodeInvalid");
  }
}

/**
 * Lets the frontend clear the errors of a widget whose value is changed: it clears those of a value
 * that is not in the list, but not those of a node's own validation, which ours are.
 * @param {ComfyNode} node @param {string} name
 */
function letErrorsEnd(node, name) {
  for (const [id, { errors = [] }] of Object.entries(app.lastNodeErrors ?? {})) {
    if (panelOf(id)?.node !== node) continue;
    for (const error of errors) {
      const isOurs = error.type === "custom_validation_failed";
      if (isOurs && error.extra_info?.input_name === name) error.type = "value_not_in_list";
    }
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
      // A loader whose result is cached says nothing new: what it said still holds.
      for (const { node, notice } of panels.values()) {
        if (LOADERS.includes(node.comfyClass ?? "")) notice.clearError("nodeFailed");
        else notice.clear();
      }
    });
    api.addEventListener("executed", ({ detail }) => {
      if (detail.output?.conditioning) conditioningSaved.schedule(undefined);
    });
    api.addEventListener("execution_error", ({ detail }) => {
      panelOf(detail.node_id)?.notice.showError("nodeFailed", [detail.exception_message.trim()]);
    });
    setInterval(showValidationErrors, VALIDATION_INTERVAL);
  },
  beforeRegisterNodeDef(_nodeType, nodeDef) {
    if (NODES.includes(nodeDef.name)) nodeDef.fallbackWidgetsValuesNames = savedNames(nodeDef);
  },
  beforeConfigureGraph(workflow) {
    dropRetiredValues(workflow);
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass ?? "")) attachPanel(node);
  },
});
