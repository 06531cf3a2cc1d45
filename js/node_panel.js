// @ts-check
// The one widget that we add to each of our nodes: last, never saved, and sized by its content.

import { element } from "./dom.js";

const NAME = "sd2_clip_panel";
/** The least and the most that scrolling parts ask for, in pixels. */
const CHIPS_MIN = 26;
const CHIPS_MAX = 104;
const PART_MAX = 220;
const GAP = 6;

/**
 * @typedef {{root: HTMLElement, measure?: () => {least: number, most: number}}} Part
 */

/**
 * @param {any} node
 * @param {Part[]} parts from top to bottom
 */
export function addPanel(node, parts) {
  const root = element("div", "sd2c-panel", parts.map((part) => part.root));

  /** @param {"least" | "most"} which */
  function height(which) {
    const visible = parts.filter((part) => !part.root.hidden);
    const heights = visible.map((part) => (part.measure ?? measured(part.root))()[which]);
    if (!heights.length) return 0;
    return heights.reduce((sum, one) => sum + one) + GAP * (heights.length - 1);
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

  function grow() {
    const wanted = node.computeSize?.()[1] ?? 0;
    if (node.size[1] < wanted) node.setSize([node.size[0], wanted]);
    node.setDirtyCanvas?.(true, true);
  }

  return {
    root,
    /** To call when the height of a part may have changed. */
    changed: () => requestAnimationFrame(grow),
  };
}

/** @param {HTMLElement} root */
function measured(root) {
  return () => {
    const inner = Math.min(root.scrollHeight, PART_MAX);
    return { least: inner, most: inner };
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
