"""The expected sets are what processDynamicPrompt of the editor 1.49.6 and 1.58.1 returns."""

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.syntax.dynamic_prompt import longest_choice, resolve_choices, strip_comments

RESULTS = {
    "": {""},
    "a cat": {"a cat"},
    "{red|green} cat": {"red cat", "green cat"},
    "{a|b|}": {"a", "b", ""},
    "{a}": {"a"},
    "{}": {""},
    "{ a | b }": {" a ", " b "},
    "{a|{b|c} d}": {"a", "b d", "c d"},
    "{a|b}{c|d}": {"ac", "ad", "bc", "bd"},
    "{{a|b}|c}": {"a", "b", "c"},
    # characters of the text
    "a | b } c": {"a | b } c"},
    r"\{a\|b\}": {"{a|b}"},
    r"{\{x\}|a\|b}": {"{x}", "a|b"},
    r"\(a\) \n \\": {r"\(a\) \n \\"},
    r"{a\\|b}": {r"a\\", "b"},
    r"{{a\\\{b}}": {r"a{b"},
    r"{a\\\{b}": {r"a\{b"},
    "a\\": {r"a\undefined"},
    "{a\\": {r"a\undefined"},
    # unclosed
    "{a|b": {"a", "b"},
    "x {a|{b|c": {"x a", "x b", "x c"},
    # comments
    "a // b": {"a "},
    "a // b\nc": {"a \nc"},
    "a // b\rc": {"a \rc"},
    "a // b\u2028c": {"a \u2028c"},
    "a // b\u0085c": {"a "},
    "a /* b\nc */ d": {"a  d"},
    "/**/a/*/b*/c": {"ac"},
    "a /* b": {"a /* b"},
    "a /* b // c": {"a /* b "},
    "/* a */ b */": {" b */"},
    "// /* a\nb */ c": {"\nb */ c"},
    "https://example.org a": {"https:"},
    "{a // b|c}": {"a "},
    "{a // b\n|c}": {"a \n", "c"},
    "{a /* | } */|b}": {"a ", "b"},
    "\\// a": {r"\undefined"},
    "cat // no dog\n/* multi\nline */ sitting in a {red|green} chair\n": {
        "cat \n sitting in a red chair\n",
        "cat \n sitting in a green chair\n",
    },
}


@pytest.mark.parametrize("text", RESULTS)
def test_choices_and_comments(text):
    assert {resolve_choices(text, Random(seed)) for seed in range(40)} == RESULTS[text]


def test_same_random_numbers_choose_the_same():
    text = "{a|b|c|d}" * 20
    assert resolve_choices(text, Random(5)) == resolve_choices(text, Random(5))
    assert resolve_choices(text, Random(5)) != resolve_choices(text, Random(6))


def test_every_option_is_as_likely_as_any_other():
    drawn = resolve_choices("{a|{b|c}}" * 4_000, Random(1))
    assert drawn.count("a") == pytest.approx(2_000, rel=0.1)
    assert drawn.count("b") == pytest.approx(1_000, rel=0.1)


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("{a|bbb|cc}", "bbb"),
        ("{a|b}", "a"),
        ("{aaa|{b|cccc}}", "cccc"),
        ("x{aa|{bbb|c}dd}{|e} // f", "xbbbdde "),
        (r"{\{|a}", "{"),
    ],
)
def test_longest_choice(text, longest):
    assert longest_choice(text, len) == longest


def test_measure_decides_which_choice_is_longest():
    assert longest_choice("{long word|a b c}", lambda option: option.count(" ")) == "a b c"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a // b\n{c|d} /* e */f", "a \n{c|d} f"),
        (r"\{a\}", r"\{a\}"),
        ("a\\", "a\\"),
    ],
)
def test_only_comments_are_stripped(text, left):
    assert strip_comments(text) == left


@given(st.text(alphabet="ab{}|\\/*\n"))
def test_text_without_marks_is_left_alone(text):
    stripped = strip_comments(text)
    assert strip_comments(stripped) == stripped
    resolved = resolve_choices(text, Random(0))
    if not set(text) & set("{\\/"):
        assert resolved == text


@pytest.mark.parametrize(
    "text",
    ["/*" * 200_000, "//" * 200_000, "{a|" * 999 + "\\\\" * 20_000, "{a|b}" * 30_000],
    ids=["open comments", "slashes", "deep", "many"],
)
@pytest.mark.slow
def test_time_is_linear(text):
    started = time.perf_counter()
    resolve_choices(text, Random(0))
    longest_choice(text, len)
    assert time.perf_counter() - started < 5


def test_nesting_without_end_is_refused():
    assert resolve_choices("{" * 1_000 + "a", Random(0)) == "a"
    with pytest.raises(OptionError, match="nests choices"):
        resolve_choices("{" * 1_001 + "a", Random(0))
