import assert from "node:assert/strict";
import test from "node:test";

import {
  absoluteLayer,
  chunksOf,
  countsOf,
  headingAndRest,
  MAX_CHIPS,
  sizeText,
  weightColour,
  weightText,
} from "../../js/token_view.js";

const row = (text, more = {}) => ({
  id: 1, text, weight: 1, chunk: 0, word: 1, kind: "token", ends_word: true, ...more,
});
const answer = (rows, chunk_count = 1) => ({
  rows, chunk_count, chunk_length: 77, token_count: rows.length, cut_words: [], embeddings: [],
  ignored: [], warnings: [],
});

test("each token becomes a chip of its chunk", () => {
  const chunks = chunksOf(answer([row("a"), row("b", { chunk: 1 })], 2));
  assert.deepEqual(chunks.map((one) => one.chips.map((chip) => chip.text)), [["a"], ["b"]]);
  assert.deepEqual(chunks.map((one) => one.number), [1, 2]);
});

test("vectors of one embedding are one chip with their count", () => {
  const vector = (n) => row(`embedding:oil[${n}/3]`, { id: null, kind: "embedding", word: 2 });
  const [{ chips, count }] = chunksOf(answer([vector(1), vector(2), vector(3), row("x")]));
  assert.deepEqual(chips.map((chip) => [chip.text, chip.ids.length]), [["oil", 3], ["x", 1]]);
  assert.equal(count, 4);
});

test("the same embedding twice is two chips", () => {
  const vector = (word) => row("embedding:oil[1/1]", { id: null, kind: "embedding", word });
  const [{ chips }] = chunksOf(answer([vector(1), vector(2)]));
  assert.equal(chips.length, 2);
});

test("an embedding cut by a chunk's end has a chip in both", () => {
  const vector = (chunk) => row("embedding:oil[1/2]", { id: null, kind: "embedding", chunk });
  const chunks = chunksOf(answer([vector(0), vector(1)], 2));
  assert.deepEqual(chunks.map((one) => one.chips.length), [1, 1]);
});

test("only the last chip of equal weights ends their run", () => {
  const heavy = { weight: 1.3 };
  const [{ chips }] = chunksOf(answer([row("a", heavy), row("b", heavy), row("c")]));
  assert.deepEqual(chips.map((chip) => chip.endsRun), [false, true, true]);
});

test("a token inside a word joins the next", () => {
  const [{ chips }] = chunksOf(answer([row("super", { ends_word: false }), row("man")]));
  assert.deepEqual(chips.map((chip) => chip.joinsNext), [true, false]);
});

test("very long texts are counted to the end and drawn in part", () => {
  const rows = Array.from({ length: MAX_CHIPS + 50 }, (_, i) => row(`t${i}`, { word: i + 1 }));
  const [{ chips, count }] = chunksOf(answer(rows));
  assert.equal(chips.length, MAX_CHIPS);
  assert.equal(count, MAX_CHIPS + 50);
});

test("tokens after the first chunk have spilled", () => {
  const rows = [...Array(75).fill(row("a")), row("b", { chunk: 1 }), row("c", { chunk: 1 })];
  assert.deepEqual(countsOf(answer(rows, 2)), {
    perChunk: [75, 2], capacity: 75, last: 2, spilled: 2,
  });
});

test("an empty text has one empty chunk", () => {
  assert.deepEqual(countsOf(answer([])), { perChunk: [0], capacity: 75, last: 0, spilled: 0 });
});

test("heavy, light and negative weights have different colours, weight 1 none", () => {
  const hues = [1.3, 0.7, -1].map((weight) => weightColour(weight).hue);
  assert.equal(new Set(hues).size, 3);
  assert.equal(weightColour(1).strength, 0);
});

test("a weight further from 1 is stronger, and never stronger than 1", () => {
  assert.ok(weightColour(1.5).strength > weightColour(1.1).strength);
  assert.ok(weightColour(0.3).strength > weightColour(0.9).strength);
  for (const weight of [0, 100, 1e-9, -5]) assert.ok(weightColour(weight).strength <= 1);
});

for (const [weight, text] of [[1.1, "1.1"], [1.2100000000000002, "1.21"], [0, "0"], [-1, "-1"]]) {
  test(`weight ${weight} reads ${text}`, () => assert.equal(weightText(weight), text));
}

for (const [stop, loader, layer] of [
  [0, { layer: "penultimate", layer_idx: -2 }, 23],
  [0, { layer: "last", layer_idx: -2 }, 24],
  [0, { layer: "hidden", layer_idx: -5 }, 20],
  [-1, { layer: "penultimate", layer_idx: -2 }, 24],
  [-24, null, 1],
  [0, null, null],
]) {
  test(`stop ${stop} on ${loader?.layer ?? "an unknown loader"} is layer ${layer}`, () => {
    assert.equal(absoluteLayer(stop, loader), layer);
  });
}

for (const [bytes, text] of [[999, "999 B"], [708112080, "708 MB"], [5214865159, "5.21 GB"]]) {
  test(`${bytes} bytes read ${text}`, () => assert.equal(sizeText(bytes), text));
}

test("an error's first two sentences are its heading, file names not cut", () => {
  assert.deepEqual(headingAndRest("v1.5.safetensors: none found. This is X. Choose y. Or z."), [
    "v1.5.safetensors: none found. This is X.",
    "Choose y. Or z.",
  ]);
});
