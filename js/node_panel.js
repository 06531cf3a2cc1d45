// @ts-check
// Adds one DOM widget to each of our nodes: the last one, never saved, sized by its content.

import { element, styleSheet } from "./dom.js";
import { callAfter, heightAbove } from "./node_graph.js";

const NAME = "sd2_clip_panel";
/** Minimum and maximum height of the chips, which scroll, in pixels. */
const CHIPS_MIN = 26;
const CHIPS_MAX = 86;
/** The least height of a part that scrolls: one line. */
const PART_MIN = 30;
const GAP = 6;
/** Height of the text beyond the frontend's minimum: eight lines in all. */
const TEXT_HEIGHT = 60;
const TEXTS = ["text", "texts"];
/** Below this width the panel has no layout yet, and its content would measure far too high. */
const MIN_WIDTH = 100;

/**
 * @typedef {{least: number, min: number, max: number}} Heights `least` where a neighbour leaves no
 *   more room, `min` where nothing does
 * @typedef {{root: HTMLElement, measure?: () => Heights}} Part
 */

/**
 * @param {ComfyNode} node
 * @param {Part[]} parts from top to bottom
 * @param {{isHtml: () => boolean, appeared: () => void}} options `isHtml` tells whether the
 *   frontend draws nodes as HTML ("Nodes 2.0"): CSS sizes the panel there. `appeared` is called
 *   when the panel comes into view.
 */
export function addPanel(node, parts, { isHtml, appeared }) {
  const styles = styleSheet();
  const root = element("div", "sd2c-panel", [styles, ...parts.map((part) => part.root)]);
  let isVisible = false;
  let isUserSized = false;
  /** The content's heights: measuring forces a layout, and the canvas asks at every frame. Nothing
   * before they are measured: the frontend would make the node taller for good. */
  let measured = { least: 0, min: 0, max: 0 };

  function measureParts() {
    const visible = parts.filter((part) => !part.root.hidden);
    if (visible.length && (!styles.sheet || root.clientWidth < MIN_WIDTH)) return;
    const heights = visible.map((part) => part.measure?.() ?? measure(part.root));
    const gaps = GAP * Math.max(0, heights.length - 1);
    measured = {
      least: heights.reduce((sum, { least }) => sum + least, gaps),
      min: heights.reduce((sum, { min }) => sum + min, gaps),
      max: heights.reduce((sum, { max }) => sum + max, gaps),
    };
  }

  /** @param {keyof Heights} which */
  function height(which) {
    const content = measured[which];
    return content && !isHtml() ? content + 2 * (widget.margin ?? 10) : content;
  }

  /** @type {ComfyWidget} */
  const widget = node.addDOMWidget(NAME, NAME, root, {
    serialize: false,
    hideOnZoom: false,
    // The side panel that lists a node's widgets would take the element out of the node.
    hideInPanel: true,
    getMinHeight: () => height("min"),
    // The text has what the content does not need, unless the user makes room for more of it.
    getMaxHeight: () => height(isUserSized ? "max" : "min"),
    getValue: () => "",
    setValue: () => {},
  });
  // The option above keeps the widget out of the prompt, this flag out of the saved workflow.
  widget.serialize = false;

  /** The height before the node grew. */
  let grownFrom = /** @type {number | null} */ (null);
  /** The height after the last fit; null before the first, and after a workflow has set another. */
  let known = /** @type {number | null} */ (null);

  /** Grow the node to fit its content and eight lines of text, and shrink it back. It does not grow
   * over the node below: the content scrolls. A node that the user has resized grows only if its
   * content does not fit. */
  function fit() {
    measureParts();
    if (isHtml()) return;
    const [width, height] = node.size;
    if (known !== null && Math.abs(height - known) > 1) {
      isUserSized = true;
      grownFrom = null;
    }
    const own = grownFrom ?? height;
    const limit = heightAbove(node, own);
    const excess = node.computeSize()[1] - limit;
    if (excess > 0) measured.min = Math.max(measured.least, measured.min - excess);
    const [, least] = node.computeSize();
    const hasText = node.widgets?.some((one) => TEXTS.includes(one.name));
    const needed = hasText && !isUserSized ? Math.min(least + TEXT_HEIGHT, limit) : least;
    const resized = Math.max(least, needed, own);
    if (Math.abs(resized - height) > 1) {
      grownFrom ??= height;
      node.setSize([width, resized]);
    }
    known = node.size[1];
    node.setDirtyCanvas?.(true, true);
  }

  callAfter(node, "onSerialize", (/** @type {{size: ArrayLike<number>}} */ saved) => {
    // What the node has grown by is not the user's: a tab that is opened again starts without it.
    if (grownFrom !== null) saved.size = [saved.size[0] ?? node.size[0], grownFrom];
  });

  let isFitScheduled = false;

  function changed() {
    if (isFitScheduled) return;
    isFitScheduled = true;
    requestAnimationFrame(() => {
      isFitScheduled = false;
      fit();
    });
  }

  const view = new IntersectionObserver((entries) => {
    const before = isVisible;
    isVisible = entries.at(-1)?.isIntersecting ?? false;
    if (isVisible && !before) appeared();
  });
  view.observe(root);
  let width = 0;
  const size = new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    changed();
  });
  size.observe(root);
  styles.addEventListener("load", changed);
  return {
    root,
    /** To call when the height of a part may have changed. */
    changed,
    /** To call when a workflow has set the node's size. */
    configured() {
      known = null;
      isUserSized = false;
      grownFrom = null;
    },
    /** Whether any of the panel is on the screen; it is not if its node is collapsed. */
    isVisible: () => isVisible,
    stop() {
      view.disconnect();
      size.disconnect();
    },
  };
}

/** @param {HTMLElement} root @returns {Heights} */
function measure(root) {
  const borders = root.offsetHeight - root.clientHeight;
  const most = Number.parseFloat(getComputedStyle(root).maxHeight) || Infinity;
  const height = Math.min(root.scrollHeight + borders, most);
  return { least: Math.min(PART_MIN, height), min: height, max: height };
}

/**
 * Measures a token meter, whose chips scroll.
 * @param {{head: HTMLElement, bars: HTMLElement, chips: HTMLElement, notes: HTMLElement}} meter
 * @returns {() => Heights}
 */
export function measureMeter(meter) {
  return () => {
    const fixed = meter.head.offsetHeight + meter.bars.offsetHeight + meter.notes.offsetHeight + 12;
    const chips = Math.max(CHIPS_MIN, meter.chips.offsetHeight);
    return {
      least: fixed + CHIPS_MIN,
      min: fixed + Math.min(chips, CHIPS_MAX),
      max: fixed + chips,
    };
  };
}
