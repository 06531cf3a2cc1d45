import assert from "node:assert/strict";
import test from "node:test";

import { dropRetiredValues, savedNames } from "../../js/saved_widgets.js";

test("all widgets are named in their saved order, sockets are not", () => {
  const input = {
    required: { clip: ["CLIP", {}], text: ["STRING", {}], linked: ["INT", { forceInput: true }] },
    optional: { syntax: [["comfy", "a1111"], {}], steps: ["INT", {}], kind: ["COMBO", {}] },
  };
  assert.deepEqual(savedNames({ name: "X", input }), ["text", "syntax", "steps", "kind"]);
});

test("a node without inputs has no names", () => assert.deepEqual(savedNames({ name: "X" }), []));

/** As saved before the input padding. */
const BEFORE = ["a fox", "comfy", "comfy", "none", 0, 0, "tokens"];
const encoder = (values) => ({ type: "EncodeSD2Text", widgets_values: values });

for (const masking of ["compatible", "words"]) {
  test(`${masking}, a value of masking, is dropped, in subgraphs too`, () => {
    const workflow = {
      nodes: [encoder([...BEFORE, masking])],
      definitions: { subgraphs: [{ nodes: [encoder([...BEFORE, masking])] }] },
    };
    dropRetiredValues(workflow);
    assert.deepEqual(workflow.nodes[0].widgets_values, BEFORE);
    assert.deepEqual(workflow.definitions.subgraphs[0].nodes[0].widgets_values, BEFORE);
  });
}

test("values of before, of today, of a later input, and of other nodes are kept", () => {
  const nodes = [
    encoder([...BEFORE]),
    encoder([...BEFORE, "chunk"]),
    encoder([...BEFORE, "none"]),
    encoder([...BEFORE, "none", 5]),
    encoder({ text: "by name" }),
    { type: "Other", widgets_values: [...BEFORE, "words"] },
    { type: "Note" },
  ];
  const before = structuredClone(nodes);
  dropRetiredValues({ nodes });
  assert.deepEqual(nodes, before);
  dropRetiredValues({});
});
