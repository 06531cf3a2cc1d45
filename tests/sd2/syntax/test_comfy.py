"""ComfyUI's syntax, oddities included."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sd2_clip.sd2.syntax.comfy import parse_comfy, parse_unweighted
from sd2_clip.sd2.syntax.segments import LARGEST_WEIGHT, ParsedText, Segment

# What ComfyUI 0.29.0 makes of each text (its own results, not ours).
COMFY = [
    ("", []),
    ("a", [("a", 1.0)]),
    ("()", []),
    ("(())", []),
    ("( )", [(" ", 1.1)]),
    ("(a)", [("a", 1.1)]),
    ("((a))", [("a", 1.1 * 1.1)]),
    ("(a)(b)", [("a", 1.1), ("b", 1.1)]),
    ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
    ("[a]", [("[a]", 1.0)]),
    # explicit weights are absolute, and what is inside starts from them
    ("(a:1.5)", [("a", 1.5)]),
    ("((a:1.5))", [("a", 1.5)]),
    ("((a):1.5)", [("a", 1.5 * 1.1)]),
    ("(a (b:6) c:2)", [("a ", 2.0), ("b", 6.0), (" c", 2.0)]),
    ("((x:1.0):0.0)", [("x", 1.0)]),
    ("(a (cat):1.5)", [("a ", 1.5), ("cat", 1.5 * 1.1)]),
    # what counts as a number
    ("(a: 1.5 )", [("a", 1.5)]),
    ("(a:-1)", [("a", -1.0)]),
    ("(a:0)", [("a", 0.0)]),
    ("(a:1e1)", [("a", 10.0)]),
    ("(a:1_0)", [("a", 10.0)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:5.)", [("a", 5.0)]),
    ("(a:+2)", [("a", 2.0)]),
    ("(a:٢)", [("a", 2.0)]),
    ("(a:1.5\n)", [("a", 1.5)]),
    # what does not
    ("(a:b)", [("a:b", 1.1)]),
    ("(a:)", [("a:", 1.1)]),
    ("(a:b:1.5)", [("a:b", 1.5)]),
    ("(:1.2)", [(":1.2", 1.1)]),
    ("( :1.2)", [(" ", 1.2)]),
    ("a:1.2", [("a:1.2", 1.0)]),
    ("(a:1.2) :3", [("a", 1.2), (" :3", 1.0)]),
    ("(time 12:30)", [("time 12", 30.0)]),
    ("(embedding:123)", [("embedding", 123.0)]),
    # brackets without a partner
    ("(", [("(", 1.0)]),
    (")", [(")", 1.0)]),
    ("(foo", [("(foo", 1.0)]),
    ("foo)", [("foo)", 1.0)]),
    ("(a:1.2", [("(a:1.2", 1.0)]),
    ("a (b", [("a ", 1.0), ("(b", 1.0)]),
    (") foo (bar)", [(") foo (bar)", 1.0)]),
    (") ( (bar)", [(") ( ", 1.0), ("bar", 1.1)]),
    ("(a:1.5)b)(c)", [("a", 1.5), ("b)(c)", 1.0)]),
    ("(a (b) c", [("(a (b) c", 1.0)]),
    ("(a (b:1.3)", [("a ", 1.3), ("(b", 1.3)]),
    ("((a) (b)", [("a", 1.1 * 1.1), (" ", 1.1), ("(b", 1.1)]),
    ("(((a)", [("((a", 1.1)]),
    ("((a:1.5) b)", [("a", 1.5), (" b", 1.1)]),
    ("((a:2)(b:1.5)", [("a", 2.0), ("(b", 1.5)]),
    ("((b(:1)", [("(b(", 1.0)]),
    ("(a(:1.5)", [("a", 1.5), ("(", 1.5)]),
    # escapes
    (r"\(a\)", [("(a)", 1.0)]),
    (r"(\(a\):1.5)", [("(a)", 1.5)]),
    (r"(\):1.5)", [(")", 1.5)]),
    (r"(a\)", [("(a)", 1.0)]),
    (r"(a:1.5\)", [("(a:1.5)", 1.0)]),
    (r"\\(a)", [("\\(a)", 1.0)]),
    (r"(a\:1.5)", [("a\\", 1.5)]),
]


def segments_of(parsed: ParsedText) -> list[Segment]:
    [segments] = parsed.sections
    return list(segments)


@pytest.mark.parametrize(("text", "segments"), COMFY, ids=[repr(text) for text, _ in COMFY])
def test_segments_equal_comfyuis(text: str, segments: list[tuple[str, float]]) -> None:
    assert segments_of(parse_comfy(text)) == segments


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "infinity", "1e39"])
def test_unusable_weight_is_left_out_with_a_warning(number: str) -> None:
    parsed = parse_comfy(f"(cat:{number})")
    assert segments_of(parsed) == [("cat", 1.1)]
    assert number in parsed.warnings[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(time 12:30)", "(time 12:30:1.0)"),
        ("(embedding:123)", "name of an embedding"),
        ("a (embedding:1.5)", "name of an embedding"),
        ("a) (b)", "')' at character 2"),
        ("ab (c", "'(' at character 4"),
        ("(a:-5)", "weight -5"),
        ("(" * 12 + "a" + ")" * 12, "weight 3.14"),
        ("(a:9)(b:8)(c:7)", "and 2 more"),
    ],
)
def test_probable_slips_are_reported(text: str, said: str) -> None:
    (warning,) = parse_comfy(text).warnings
    assert said in warning


@pytest.mark.parametrize(
    "text",
    [
        "a (cat:1.3)",
        "(a:3)",
        r"\(a",
        "((a))",
        "(embedding:cat:1.2)",
        "(my embeddings:1.2)",
        "(myembedding:1.2)",
    ],
)
def test_ordinary_texts_give_no_warning(text: str) -> None:
    assert parse_comfy(text).warnings == ()


def test_unweighted_text_keeps_brackets_and_loses_escapes() -> None:
    assert segments_of(parse_unweighted(r"(a:2) \(b\)")) == [("(a:2) (b)", 1.0)]
    assert segments_of(parse_unweighted("")) == []


BRACKETS = st.text(st.sampled_from("(()):\\ 1.5eab"), max_size=60)


@settings(deadline=None)
@given(st.one_of(BRACKETS, st.text(st.characters(), max_size=60)))
def test_any_text_gives_finite_weights_and_no_empty_segment(text: str) -> None:
    for segment in segments_of(parse_comfy(text)):
        assert segment.text
        assert abs(segment.weight) <= LARGEST_WEIGHT


@settings(deadline=None)
@given(st.text(st.sampled_from("ab :.1,"), max_size=30))
def test_text_without_brackets_is_one_segment(text: str) -> None:
    assert [segment.text for segment in segments_of(parse_comfy(text))] == [text] * bool(text)


@settings(deadline=None)
@given(BRACKETS)
def test_escaped_text_is_the_text_itself(text: str) -> None:
    text = text.replace("\\", "")
    escaped = text.replace("(", r"\(").replace(")", r"\)")
    assert parse_comfy(escaped).sections == parse_unweighted(escaped).sections
    assert "".join(segment.text for segment in segments_of(parse_comfy(escaped))) == text


N = 100_000
HOSTILE = {
    "nested": "(" * N + "x" + ")" * N,
    "nested weights": "(" * N + "x" + ":1.1)" * N,
    "nested, each with text": "(a" * N + ")" * N,
    "never closed": "(" * N,
    "half closed": "(" * N + "x" + ")" * (N // 2),
    "closed too often": ")" * N + "(a)" * N,
    "long number inside": "(" * N + "a:" + "1" * N + ")" * N,
    "long blank number": "(" * N + "a:1" + " " * N + ")" * N,
    "colons": "(a" + ":" * N + ")",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.slow
def test_hostile_text_ends_soon(text: str) -> None:
    start = time.process_time()
    parsed = parse_comfy(text)
    # A second of processor time at most; one that grew with the square would take hours.
    assert time.process_time() - start < 10
    assert all(math.isfinite(segment.weight) for segment in segments_of(parsed))
    assert len(parsed.warnings) <= 5
