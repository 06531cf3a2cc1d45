// @ts-check
// Reads the widgets and links of nodes. No DOM here.

/** @typedef {import("./server.js").Prompt} Prompt */
/** @typedef {import("./token_view.js").LoaderLayer} LoaderLayer */

export const LOADER = "LoadSD2CLIP";
const LORA_LOADER = "LoadSD2CLIPLora";
const REROUTE = "Reroute";

const PROMPT_WIDGETS = ["text", "syntax", "steps", "chunk_split"];
/** Links followed at most from a node to its loader. */
const MAX_LINKS = 50;

/** @param {ComfyNode} node @param {string} name */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
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
