// @ts-check
// Reads and sets the widgets of nodes, and follows their links. No DOM here.

/** @typedef {import("./server.js").Prompt} Prompt */
/** @typedef {import("./token_view.js").LoaderLayer} LoaderLayer */

export const LOADER = "LoadSD2CLIP";
const LORA_LOADER = "LoadSD2CLIPLora";
const REROUTE = "Reroute";

const PROMPT_WIDGETS = ["text", "syntax", "steps", "chunk_split", "padding"];
/** Links followed at most from a node to its loader. */
const MAX_LINKS = 50;

/** @param {ComfyNode} node @param {string} name */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/**
 * Sets a widget as a choice by the user does: the frontend then clears the errors of its value.
 * @param {ComfyNode} node @param {string} name @param {unknown} value
 */
export function chooseValue(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget) return;
  const before = widget.value;
  widget.value = value;
  widget.callback?.(value);
  node.onWidgetChanged?.(name, value, before, widget);
  node.setDirtyCanvas?.(true, true);
}

/**
 * Calls `after` each time that a method of the frontend's object has returned.
 * @template {string} Name
 * @param {{[name in Name]?: ((...values: any[]) => any) | null}} holder
 * @param {Name} name
 * @param {(...values: any[]) => void} after
 */
export function callAfter(holder, name, after) {
  const original = holder[name];
  holder[name] = function (/** @type {any[]} */ ...values) {
    const result = original?.apply(this, values);
    after(...values);
    return result;
  };
}

/** @param {ComfyNode} node @param {string} name */
export function isLinked(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot >= 0 && node.isInputConnected(slot);
}

/**
 * The Load SD2 CLIP that a node's clip comes from; null if other nodes may have changed the layer.
 * @param {ComfyNode} node
 */
export function loaderOf(node) {
  let slot = clipSlot(node);
  let current = node;
  for (let links = 0; links < MAX_LINKS && slot >= 0; links += 1) {
    const source = current.graph ? current.getInputNode(slot) : null;
    if (!source) return null;
    const type = source.comfyClass ?? source.type;
    if (type === LOADER) return source;
    if (type !== LORA_LOADER && type !== REROUTE) return null;
    slot = type === REROUTE ? 0 : clipSlot(source);
    current = source;
  }
  return null;
}

/** @param {ComfyNode} node */
function clipSlot(node) {
  return node.inputs?.findIndex((input) => input.name === "clip") ?? -1;
}

/** @param {ComfyNode} node @returns {LoaderLayer} */
export function loaderLayer(node) {
  return {
    layer: String(widgetOf(node, "layer")?.value ?? "penultimate"),
    layer_idx: Number(widgetOf(node, "layer_idx")?.value ?? -2),
  };
}

/** The widgets of a text node that determine its tokens. @param {ComfyNode} node */
export function promptOf(node) {
  const widgets = PROMPT_WIDGETS.filter((name) => !isLinked(node, name)).flatMap(
    (name) => widgetOf(node, name) ?? [],
  );
  return /** @type {Prompt} */ (
    Object.fromEntries(widgets.map(({ name, value }) => [name, value]))
  );
}

/** What a title bar takes above a node's position, and the least space between two nodes. */
const TITLE_HEIGHT = 30;
const SPACE = 10;

/**
 * The height that a node may have before it covers the next one below. A node that already covers
 * it at this height keeps that.
 * @param {ComfyNode} node @param {number} height
 */
export function heightAbove(node, height) {
  const [left, top] = node.pos;
  const others = node.graph?._nodes ?? [];
  const limits = others
    .filter((one) => one !== node && one.pos[0] < left + node.size[0])
    .filter((one) => left < one.pos[0] + one.size[0])
    .map((one) => one.pos[1] - TITLE_HEIGHT - top)
    .filter((limit) => limit >= height);
  return Math.max(height, Math.min(...limits) - SPACE);
}

/**
 * Whether the list of Load SD2 Conditioning has a name, which may lack the suffix of the folder.
 * @param {string[]} names @param {string} name
 */
export function hasConditioning(names, name) {
  const spelled = name.replaceAll("\\", "/");
  return names.includes(spelled) || names.includes(`${spelled} [output]`);
}
