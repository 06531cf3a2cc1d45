// @ts-check
// The one widget that we add to each of our nodes: last, never saved, and sized by its content.

import { element, styleSheet } from "./dom.js";

const NAME = "sd2_clip_panel";
/** The least and the most that scrolling parts ask for, in pixels. */
const CHIPS_MIN = 26;
const CHIPS_MAX = 86;
const PART_MAX = 220;
const GAP = 6;
/** What a text keeps to itself, beyond its least, when a node grows for its panel. */
const TEXT_ROOM = 48;
/** Below this width the panel is not laid out yet, and its text would measure far too high. */
const LEAST_WIDTH = 100;

/**
 * @typedef {{root: HTMLElement, measure?: () => {least: number, most: number}}} Part
 */

/**
 * @param {any} node
 * @param {Part[]} parts from top to bottom
 * @param {() => boolean} hasMargin whether the canvas takes a margin off the height it gives us
 */
export function addPanel(node, parts, hasMargin) {
  const styles = styleSheet();
  const root = element("div", "sd2c-panel", [styles, ...parts.map((part) => part.root)]);

  /** @param {"least" | "most"} which */
  function height(which) {
    const visible = parts.filter((part) => !part.root.hidden);
    if (!visible.length) return 0;
    if (!styles.sheet || root.clientWidth < LEAST_WIDTH) return 2 * CHIPS_MIN;
    const heights = visible.map((part) => (part.measure ?? measured(part.root))()[which]);
    const margin = hasMargin() ? 2 * (widget.margin ?? 10) : 0;
    return heights.reduce((sum, one) => sum + one) + GAP * (heights.length - 1) + margin;
  }

  const widget = node.addDOMWidget(NAME, NAME, root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height("least"),
    getMaxHeight: () => height("most"),
    getValue: () => "",
    setValue: () => {},
  });
  // Two flags: this one keeps it out of the saved workflow, the option above out of the prompt.
  widget.serialize = false;

  /** @type {{from: number, to: number} | null} */
  let grown = null;

  /** Make room for more content, and give it back when the content goes and nobody has resized. */
  function fit() {
    const height = node.size[1];
    const least = node.computeSize()[1];
    const room = node.widgets.some((/** @type {any} */ one) => one.name === "text") ? TEXT_ROOM : 0;
    const wanted = least > height || grown !== null ? least + room : least;
    if (grown !== null && Math.abs(height - grown.to) > 1) grown = null;
    const resized = Math.max(wanted, grown === null ? height : grown.from);
    if (Math.abs(resized - height) > 1) {
      grown = { from: grown === null ? height : grown.from, to: resized };
      node.setSize([node.size[0], resized]);
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

/** @param {HTMLElement} root */
function measured(root) {
  return () => {
    const borders = root.offsetHeight - root.clientHeight;
    const height = Math.min(root.scrollHeight + borders, PART_MAX);
    return { least: height, most: height };
  };
}

/**
 * How a meter is measured: all of it but the chips, which scroll.
 * @param {{head: HTMLElement, bars: HTMLElement, chips: HTMLElement, notes: HTMLElement}} meter
 */
export function measureMeter(meter) {
  return () => {
    const fixed = meter.head.offsetHeight + meter.bars.offsetHeight + meter.notes.offsetHeight + 12;
    const chips = Math.max(CHIPS_MIN, meter.chips.offsetHeight);
    return { least: fixed + Math.min(chips, CHIPS_MAX), most: fixed + chips };
  };
}
