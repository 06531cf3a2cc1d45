"""A1111's prompt syntax: what its own documentation says, and what is promised here."""

import time

import pytest
from sd2_clip.sd2.syntax.a1111 import parse_a1111, take_extra_networks


# A1111's wiki, Features, "Composable Diffusion"
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat AND a dog", [("a cat", 1.0), (" a dog", 1.0)]),
        ("a cat :1.2 AND a dog AND a penguin :2.2",
         [("a cat", 1.2), (" a dog", 1.0), (" a penguin", 2.2)]),
        ("BRAND AND:1 SAND", [("BRAND", 1.0), (":1 SAND", 1.0)]),
    ],
)  # fmt: skip
def test_and_separates_weighted_prompts(text, expected):
    prompts = parse_a1111(text).prompts
    assert [(prompt.text, prompt.strength) for prompt in prompts] == expected


def test_and_says_by_what_to_multiply_cfg():
    assert "cfg by 3" in parse_a1111("a :1.2 AND b :1.8").warnings[0]
    assert parse_a1111("a :0.3 AND b :0.7").warnings == ()


def test_weights_that_comfyui_cannot_average_are_an_error():
    assert "cannot mean" in parse_a1111("a AND b :-1").error
    assert parse_a1111("a AND b :-0.5").error is None


def texts(text, steps=None):
    return [prompt.text.split() for prompt in parse_a1111(text, steps).prompts]


@pytest.mark.parametrize(
    ("text", "words", "count"),
    [
        ("# quality words\nmasterpiece, cat # not this\n# nor this", ["masterpiece,", "cat"], 3),
        ("cat #", ["cat"], 1),
        ("cat#dog\nfox", ["cat", "fox"], 1),
        ("  # indented\ncat", ["cat"], 1),
        ("cat ## two # marks", ["cat"], 1),
        ("#a\n#b\n\n#c", [], 3),
        ("cat #a\r\ndog", ["cat", "dog"], 1),
        ("no comment", ["no", "comment"], 0),
        (r"a \# b", ["a", "\\"], 1),
    ],
)  # fmt: skip
def test_a_hash_begins_a_comment(text, words, count):
    assert texts(text) == [words]
    assert parse_a1111(text).comments == count


def test_comments_go_before_anything_else_is_read():
    assert texts("cat # AND dog\n AND fox") == [["cat"], ["fox"]]
    assert texts("a # [cat:dog:0.5] <lora:x:1> :2\nb") == [["a", "b"]]
    assert parse_a1111("a # <lora:x:1> ((").warnings == ()
    assert len(parse_a1111("a # BREAK\nb").prompts[0].sections) == 1
    assert texts("[cat # :x\n:dog:0.5]") == [["cat"], ["dog"]]
    assert parse_a1111("cat :1.5 # :2").strengths == (1.5,)


def test_extra_networks_are_taken_out_and_named():
    text, taken = take_extra_networks("a <lora:x:0.8>b<hypernet:y> < c <x:> <lora:")
    assert text == "a b < c <x:> <lora:"
    assert taken == ["<lora:x:0.8>", "<hypernet:y>"]
    assert "not applied: <lora:x:1>" in parse_a1111("cat <lora:x:1>").warnings[0]


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000 + "x", "[" * 10_000 + "x" + "]" * 10_000, "(x:" * 10_000, "x)" * 10_000,
     "[a:" * 10_000 + "b" + ":0.5]" * 10_000, "<lora:" * 10_000, " " * 20_000, "(a" * 10_000,
     "[a|b]" * 200, "(a:" + "9" * 20_000 + ")", "\\" * 20_001, "#" * 20_000,
     "#\n" * 10_000, "[:" * 10_000 + "]" * 10_000],
    ids=lambda text: text[:12],
)  # fmt: skip
@pytest.mark.slow
def test_long_runs_of_one_thing_are_read_in_a_moment(text):
    started = time.process_time()
    assert parse_a1111(text, 4).prompts
    assert time.process_time() - started < 2
