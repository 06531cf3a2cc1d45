import assert from "node:assert/strict";
import test from "node:test";

import { embeddingQuery, matching, written } from "../../js/completion.js";

for (const [text, expected] of [
  ["embedding:|", ""],
  ["a fox, embedding:sty|", "sty"],
  ["(embedding:sty|:1.2)", "sty"],
  ["embedding:folder/st|yle", "folder/st"],
  ['embedding:"my st|', "my st"],
  ['(embedding:"my st|yle":1.2)', "my st"],
  ['embedding:"old \\(ink\\) s|', "old (ink) s"],
]) {
  test(`a name is being typed in ${text}`, () => {
    const caret = text.indexOf("|");
    assert.equal(embeddingQuery(text.replace("|", ""), caret)?.prefix, expected);
  });
}

for (const text of ["embeddin|", "embedding:sty |", "myembedding:sty|", "|embedding:sty", ""]) {
  test(`no name is being typed in "${text}"`, () => {
    assert.equal(embeddingQuery(text.replace("|", ""), Math.max(0, text.indexOf("|"))), null);
  });
}

test("the whole name around the caret is replaced, and nothing behind it", () => {
  const text = "(embedding:style:1.2) x";
  const { start, end } = embeddingQuery(text, "(embedding:st".length);
  assert.equal(`${text.slice(0, start)}oil${text.slice(end)}`, "(embedding:oil:1.2) x");
});

for (const [name, expected] of [
  ["style", "style"],
  ["folder/style-2", "folder/style-2"],
  ["my style", '"my style"'],
  ["a,b", '"a,b"'],
  ["ink (old)", '"ink \\(old\\)"'],
  ["ink(old)", "ink\\(old\\)"],
]) {
  test(`the name ${name} is written so that it can be read`, () => {
    assert.equal(written(name), expected);
  });
}

test("a quoted name is replaced with its quotes", () => {
  const text = '(embedding:"my st":1.2) x';
  const { start, end } = embeddingQuery(text, '(embedding:"my'.length);
  assert.equal(`${text.slice(0, start)}"my style"${text.slice(end)}`, '(embedding:"my style":1.2) x');
});

const known = ["bad-hands", "oil-style", "style-ink", "Style-Oil"].map((name) => ({
  name, vectors: 1, width: 1024,
}));
const names = (typed, limit = 9, from = known) => matching(from, typed, limit).map((e) => e.name);

test("names that begin so come before names that contain it, whatever the case", () => {
  assert.deepEqual(names("style"), ["style-ink", "Style-Oil", "oil-style"]);
});

test("no more are suggested than the limit", () => assert.equal(names("", 2).length, 2));

test("a complete name has no suggestions", () => assert.deepEqual(names("bad-hands"), []));

test("embeddings of another width come last", () => {
  const sd1 = { name: "style-a", vectors: 1, width: 768 };
  assert.equal(names("style", 9, [sd1, ...known]).at(-1), "style-a");
});
