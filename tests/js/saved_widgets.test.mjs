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

const TODAY = ["a fox", "comfy", "comfy", "none", 0, 0, "tokens"];
const encoder = (values) => ({ type: "EncodeSD2Text", widgets_values: values });

for (const masking of ["compatible", "words"]) {
  test(`${masking}, a value of masking, is dropped, in subgraphs too`, () => {
    const workflow = {
      nodes: [encoder([...TODAY, masking])],
      definitions: { subgraphs: [{ nodes: [encoder([...TODAY, masking])] }] },
    };
    dropRetiredValues(workflow);
    assert.deepEqual(workflow.nodes[0].widgets_values, TODAY);
    assert.deepEqual(workflow.definitions.subgraphs[0].nodes[0].widgets_values, TODAY);
  });
}

test("values of today, of a later input, and of other nodes are kept", () => {
  const nodes = [
    encoder([...TODAY]),
    encoder([...TODAY, 5]),
    encoder({ text: "by name" }),
    { type: "Other", widgets_values: [...TODAY, "words"] },
    { type: "Note" },
  ];
  const before = structuredClone(nodes);
  dropRetiredValues({ nodes });
  assert.deepEqual(nodes, before);
  dropRetiredValues({});
});
