"""Which texts look like A1111's syntax, and which are ordinary prompts."""

import time

import pytest
from sd2_clip.sd2.syntax.a1111_marks import a1111_hint


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("cat <lora:style:0.8>", "<lora:style:0.8>"),
        ("cat <lora:", "<lora:"),
        ("a [red] cat", "[red]"),
        ("a [cat:dog:0.5]", "[cat:dog:0.5]"),
        ("a [cat::5]", "[cat::5]"),
        ("[a|b] fox", "[a|b]"),
        ("cat BREAK dog", "BREAK"),
        ("cat\nBREAK\ndog", "BREAK"),
        ("a cat AND a dog :1.2", "AND"),
        ("a __animal__ here", "__animal__"),
        ("(__colors/warm__:1.2)", "__colors/warm__"),
    ],
)
def test_a1111s_syntax_is_quoted(text, quoted):
    hint = a1111_hint(text)
    assert hint is not None
    assert quoted in hint
    assert "\n" not in hint


@pytest.mark.parametrize(
    "text",
    ["", "a (cat:1.2), dog", "rock and roll, break", "a poster that says ROCK AND ROLL",
     "BRAND, BREAKFAST", r"\[plain\] brackets", "[]", "[ ]", "a ] b [ c", "snake_case __ x", "____",
     "a < b", "<html>", "embedding:a__b", "{red|green} // comment"],
)  # fmt: skip
def test_ordinary_texts_give_no_hint(text):
    assert a1111_hint(text) is None


def test_each_kind_has_its_cure_and_the_hint_is_short():
    hint = a1111_hint("[x] " * 3 + "<lora:a:1> __w__ " + "".join(f"[{n}]" for n in range(50)))
    assert "set syntax to a1111" in hint
    assert "load LoRAs with a loader node" in hint
    assert "no syntax here fills in wildcards" in hint
    assert len(hint) < 300
    assert "syntax to a1111" not in a1111_hint("__w__")


@pytest.mark.parametrize(
    "text",
    ["[" * 50_000, "[a" * 50_000, "[ " * 50_000, "_" * 50_000, "__a" * 50_000, "__a/" * 50_000,
     "<lora:" * 20_000, "AND " * 50_000, "[\\" * 50_000, "[" + " " * 50_000 + "x"],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_long_runs_of_one_thing_are_searched_in_a_moment(text):
    started = time.process_time()
    a1111_hint(text)
    assert time.process_time() - started < 2
