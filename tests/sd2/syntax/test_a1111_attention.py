"""A1111's brackets: what its own documentation says, and what is promised here."""

import pytest
from sd2_clip.sd2.syntax.a1111_attention import parse_attention
from sd2_clip.sd2.syntax.segments import Segment


def segments(text):
    [section] = parse_attention(text).sections
    return [tuple(segment) for segment in section]


# AUTOMATIC1111/stable-diffusion-webui, modules/prompt_parser.py: parse_prompt_attention's docstring
ATTENTION = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}


@pytest.mark.parametrize(("text", "expected"), ATTENTION.items(), ids=list(ATTENTION))
def test_brackets_as_in_a1111s_docstring(text, expected):
    assert segments(text) == expected


# A1111's wiki, Features, "Attention/emphasis"
@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("(word)", 1.1),
        ("((word))", 1.21),
        ("[word]", 1 / 1.1),
        ("(word:1.5)", 1.5),
        ("(word:0.25)", 0.25),
        (r"\(word\)", 1.0),
        ("[[word]]", 1 / 1.21),
    ],
)
def test_weights_as_in_a1111s_wiki(text, weight):
    [(_, found)] = segments(text)
    assert found == pytest.approx(weight)


# Where ComfyUI's explicit weight replaces, A1111's multiplies (ComfyUI issue 4610)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((x):1.1)", {"x": 1.21}),
        ("((x:1.1))", {"x": 1.21}),
        ("((x:1.0):0.0)", {"x": 0.0}),
        ("(a (b:6) c:2)", {"a ": 2, "b": 12, " c": 2}),
        ("[x]", {"x": 0.9090909}),
    ],
)
def test_nested_weights_multiply(text, expected):
    assert dict(segments(text)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1)]),
        ("a) b", [("a) b", 1.0)]),
        ("a] b", [("a] b", 1.0)]),
        (r"a \b \\ c", [("a b \\ c", 1.0)]),
        ("(x: 1.5 )", [("x", 1.5)]),
        ("(x:-1)", [("x", -1.0)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(12:30)", [("12", 30.0)]),
        ("", []),
    ],
)
def test_odd_brackets(text, expected):
    assert segments(text) == [(text, pytest.approx(weight)) for text, weight in expected]


def test_factors_multiply_from_the_inside_as_in_a1111_to_the_last_bit():
    assert segments("(([x]:1.3):0.7)") == [("x", 1 / 1.1 * 1.3 * 0.7)]
    assert 1 / 1.1 * 1.3 * 0.7 != 1.3 * 0.7 / 1.1


@pytest.mark.parametrize(
    ("text", "warning"),
    [("a) b", "closes nothing"), ("(a", "never closed"), ("(12:30)", "far from 1")],
)
def test_what_surely_is_not_meant_is_warned_about(text, warning):
    assert warning in parse_attention(text).warnings[0]


def test_break_inside_brackets_keeps_their_weight():
    first, second = parse_attention("(cat BREAK dog:1.5)").sections
    assert (first, second) == ((Segment("cat", 1.5),), (Segment("dog", 1.5),))


@pytest.mark.parametrize("text", ["BREAKFAST", "break", "xBREAK"])
def test_only_the_word_break_breaks(text):
    assert len(parse_attention(text).sections) == 1
