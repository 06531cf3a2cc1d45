// @ts-check
// Adds one DOM widget to each of our nodes: the last one, never saved, sized by its content.

import { element, styleSheet } from "./dom.js";

const NAME = "sd2_clip_panel";
/** Minimum and maximum height of the chips, which scroll, in pixels. */
const CHIPS_MIN = 26;
const CHIPS_MAX = 86;
const PART_MAX = 220;
const GAP = 6;
/** Height that a node adds for its text, beyond the minimum, when it grows for its panel. */
const TEXT_HEIGHT = 48;
/** Below this width the panel has no layout yet, and its content would measure far too high. */
const MIN_WIDTH = 100;

/**
 * @typedef {{min: number, max: number}} Heights
 * @typedef {{root: HTMLElement, measure?: () => Heights}} Part
 */

/**
 * @param {ComfyNode} node
 * @param {Part[]} parts from top to bottom
 * @param {() => boolean} hasMargin whether the frontend subtracts a margin from the widget's height
 */
export function addPanel(node, parts, hasMargin) {
  const styles = styleSheet();
  const root = element("div", "sd2c-panel", [styles, ...parts.map((part) => part.root)]);

  /** @param {keyof Heights} which */
  function height(which) {
    const visible = parts.filter((part) => !part.root.hidden);
    if (!visible.length) return 0;
    if (!styles.sheet || root.clientWidth < MIN_WIDTH) return 2 * CHIPS_MIN;
    const heights = visible.map((part) => (part.measure?.() ?? measure(part.root))[which]);
    const margin = hasMargin() ? 2 * (widget.margin ?? 10) : 0;
    return heights.reduce((sum, one) => sum + one) + GAP * (heights.length - 1) + margin;
  }

  /** @type {ComfyWidget} */
  const widget = node.addDOMWidget(NAME, NAME, root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height("min"),
    getMaxHeight: () => height("max"),
    getValue: () => "",
    setValue: () => {},
  });
  // The option above keeps the widget out of the prompt, this flag out of the saved workflow.
  widget.serialize = false;

  /** @type {{from: number, to: number} | null} */
  let grown = null;

  /** Grow the node to fit its content, and shrink it back unless the user has resized it. */
  function fit() {
    const [width, height] = node.size;
    const [, least] = node.computeSize();
    const extra = node.widgets.some((one) => one.name === "text") ? TEXT_HEIGHT : 0;
    const needed = least > height || grown !== null ? least + extra : least;
    if (grown !== null && Math.abs(height - grown.to) > 1) grown = null;
    const resized = Math.max(needed, grown === null ? height : grown.from);
    if (Math.abs(resized - height) > 1) {
      grown = { from: grown === null ? height : grown.from, to: resized };
      node.setSize([width, resized]);
    }
    node.setDirtyCanvas?.(true, true);
  }

  const changed = () => requestAnimationFrame(fit);
  styles.addEventListener("load", changed);
  return {
    root,
    /** To call when the height of a part may have changed. */
    changed,
  };
}

/** @param {HTMLElement} root @returns {Heights} */
function measure(root) {
  const borders = root.offsetHeight - root.clientHeight;
  const height = Math.min(root.scrollHeight + borders, PART_MAX);
  return { min: height, max: height };
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
    return { min: fixed + Math.min(chips, CHIPS_MAX), max: fixed + chips };
  };
}
