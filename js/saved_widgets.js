// @ts-check
// Keeps saved widget values with their widgets, whatever inputs a node gains or loses. No DOM here.

/** @typedef {{type: string, widgets_values?: unknown}} SavedNode */
/** @typedef {{nodes?: SavedNode[], definitions?: {subgraphs?: {nodes?: SavedNode[]}[]}}} SavedWorkflow */

const WIDGET_TYPES = ["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"];

/**
 * Widgets that a node no longer has: where their values are in old workflows, and what these may be.
 * A later input in that position must not have them among its values.
 * @type {Record<string, {position: number, values: unknown[]}>}
 */
const RETIRED = {
  EncodeSD2Text: { position: 7, values: ["compatible", "words"] }, // masking, of before 0.1.0
};

/**
 * The names of a node's widgets, in the order in which their values are saved. Frontends since 1.50
 * restore values by name if the node's definition has them.
 * @param {ComfyNodeDef} nodeDef
 */
export function savedNames({ input = {} }) {
  return Object.entries({ ...input.required, ...input.optional })
    .filter(([, [type, options]]) => isWidget(type) && !options?.forceInput)
    .map(([name]) => name);
}

/** @param {unknown} type */
function isWidget(type) {
  return Array.isArray(type) || WIDGET_TYPES.includes(String(type));
}

/** Removes the values of retired widgets from a workflow, before it is loaded. @param {SavedWorkflow} workflow */
export function dropRetiredValues({ nodes = [], definitions }) {
  const inner = definitions?.subgraphs?.flatMap((subgraph) => subgraph.nodes ?? []) ?? [];
  for (const { type, widgets_values: values } of [...nodes, ...inner]) {
    const retired = RETIRED[type];
    if (!retired || !Array.isArray(values)) continue;
    if (retired.values.includes(values[retired.position])) values.splice(retired.position, 1);
  }
}
