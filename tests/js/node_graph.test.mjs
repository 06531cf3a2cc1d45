import assert from "node:assert/strict";
import test from "node:test";

import {
  hasConditioning,
  heightAbove,
  isLinked,
  loaderLayer,
  loaderOf,
  promptOf,
  widgetOf,
} from "../../js/node_graph.js";

/** A node whose links are other nodes, by the name of the input. */
const node = (type, links = {}, values = {}) => ({
  comfyClass: type,
  graph: {},
  inputs: Object.keys(links).map((name) => ({ name })),
  widgets: Object.entries(values).map(([name, value]) => ({ name, value })),
  isInputConnected: (slot) => Object.values(links)[slot] !== null,
  getInputNode: (slot) => Object.values(links)[slot],
});
const loader = node("LoadSD2CLIP", {}, { layer: "hidden", layer_idx: -4 });

for (const [name, clip, expected] of [
  ["directly", loader, loader],
  ["through a LoRA", node("LoadSD2CLIPLora", { clip: loader }), loader],
  ["through a reroute", node("Reroute", { "": loader }), loader],
  ["through both", node("Reroute", { "": node("LoadSD2CLIPLora", { clip: loader }) }), loader],
  ["not past a node that sets the layer", node("CLIPSetLastLayer", { clip: loader }), null],
  ["not from another loader", node("CheckpointLoaderSimple"), null],
  ["not without a link", null, null],
]) {
  test(`the loader is found ${name}`, () => {
    assert.equal(loaderOf(node("EncodeSD2Text", { clip })), expected);
  });
}

test("a circle of links ends the search", () => {
  const reroute = node("Reroute");
  Object.assign(reroute, { inputs: [{ name: "" }], getInputNode: () => reroute });
  assert.equal(loaderOf(node("EncodeSD2Text", { clip: reroute })), null);
});

test("the layer is read from the loader's widgets", () => {
  assert.deepEqual(loaderLayer(loader), { layer: "hidden", layer_idx: -4 });
});

test("a prompt has the widgets that the node has", () => {
  const inspect = node("InspectSD2Text", {}, { text: "a fox", syntax: "a1111", other: 1 });
  assert.deepEqual(promptOf(inspect), { text: "a fox", syntax: "a1111" });
});

test("the value of a linked widget is not known", () => {
  const encode = node("EncodeSD2Text", { steps: loader }, { text: "a fox", steps: 20 });
  assert.equal(isLinked(encode, "steps"), true);
  assert.equal(isLinked(encode, "text"), false);
  assert.equal(widgetOf(encode, "steps").value, 20);
  assert.deepEqual(promptOf(encode), { text: "a fox" });
});

/** A node at a position, among others. */
const placed = (pos, size, others = []) => ({ pos, size, graph: { _nodes: others } });

for (const [name, others, expected] of [
  ["without others", [], Infinity],
  ["above another", [placed([50, 300], [100, 50])], 260],
  ["above the nearer of two", [placed([0, 500], [200, 50]), placed([0, 400], [200, 50])], 360],
  ["beside another", [placed([220, 150], [100, 50])], Infinity],
  ["below another", [placed([0, -200], [200, 50])], Infinity],
  ["over another that it covers already", [placed([0, 100], [200, 50])], Infinity],
  ["close above another", [placed([0, 155], [200, 50])], 120],
]) {
  test(`the height of a node ${name}`, () => {
    assert.equal(heightAbove(placed([0, 0], [200, 120], others), 120), expected);
  });
}

for (const [name, expected] of [
  ["a.safetensors [output]", true],
  ["a.safetensors", true],
  ["sub\\b.safetensors", true],
  ["b.safetensors", false],
]) {
  test(`whether the list has ${name}`, () => {
    assert.equal(hasConditioning(["a.safetensors [output]", "sub/b.safetensors"], name), expected);
  });
}
