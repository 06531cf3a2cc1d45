"""A1111's prompt language: what its own documentation says, and what it promises here."""

import time

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.syntax.a1111 import parse_a1111, take_networks
from sd2_clip.sd2.syntax.a1111_attention import parse_attention
from sd2_clip.sd2.syntax.a1111_schedule import read_schedule
from sd2_clip.sd2.syntax.comfy import Segment
from sd2_clip.sd2.tokens.tokenize_text import read

TOKENIZER = SD2Tokenizer(embedding_directory=str(tiny.GOLDEN / "embeddings")).clip_h
TOKENIZER.embedding_size = tiny.CONFIG["hidden_size"]
COMMA = 267


def segments(text):
    [section] = parse_attention(text)[0]
    return [tuple(segment) for segment in section]


def by_step(text, steps):
    return [[round(span.end * steps), span.text] for span in read_schedule(text, steps).spans]


def chunks(text, **options):
    [part] = parse_a1111(text).parts
    return TOKENIZER.tokenize_sections(part.sections, **options)


def contents(tokens):
    return [[token.value for token in chunk if token.word] for chunk in tokens.chunks]


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
    assert warning in parse_attention(text)[1][0]


# A1111, get_learned_conditioning_prompt_schedules' docstring (10 steps)
SCHEDULES = {
    "test": [[10, "test"]],
    "a [b:3]": [[3, "a "], [10, "a b"]],
    "a [b: 3]": [[3, "a "], [10, "a b"]],
    "a [[[b]]:2]": [[2, "a "], [10, "a [[b]]"]],
    "[(a:2):3]": [[3, ""], [10, "(a:2)"]],
    "a [b : c : 1] d": [[1, "a b  d"], [10, "a  c  d"]],
    "a[b:[c:d:2]:1]e": [[1, "abe"], [2, "ace"], [10, "ade"]],
    "a [unbalanced": [[10, "a [unbalanced"]],
    "a [b:.5] c": [[5, "a  c"], [10, "a b c"]],
    "((a][:b:c [d:3]": [[3, "((a][:b:c "], [10, "((a][:b:c d"]],
    "[a|(b:1.1)]": [[step, "a" if step % 2 else "(b:1.1)"] for step in range(1, 11)],
    "[fe|]male": [[step, "female" if step % 2 else "male"] for step in range(1, 11)],
    "[fe|||]male": [
        [1, "female"], [4, "male"], [5, "female"], [8, "male"], [9, "female"], [10, "male"]
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SCHEDULES.items(), ids=list(SCHEDULES))
def test_prompt_editing_as_in_a1111s_docstring(text, expected):
    assert by_step(text, 10) == expected


def test_prompt_editing_as_in_a1111s_module_comment():
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    start = "fantasy landscape with a "
    assert by_step(text, 100) == [
        [25, start + "mountain and an oak in foreground shoddy"],
        [50, start + "lake and an oak in foreground in background shoddy"],
        [60, start + "lake and an oak in foreground in background masterful"],
        [75, start + "lake and an oak in background masterful"],
        [100, start + "lake and a christmas tree in background masterful"],
    ]


# A1111's wiki, Features, "Prompt editing" and "Alternating Words"
@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("a [fantasy:cyberpunk:16] landscape", 20,
         [[16, "a fantasy landscape"], [20, "a cyberpunk landscape"]]),
        ("[cow|horse] in a field", 4,
         [[1, "cow in a field"], [2, "horse in a field"],
          [3, "cow in a field"], [4, "horse in a field"]]),
        ("[cow|cow|horse|man|siberian tiger|ox|man] in a field", 7,
         [[2, "cow in a field"], [3, "horse in a field"], [4, "man in a field"],
          [5, "siberian tiger in a field"], [6, "ox in a field"], [7, "man in a field"]]),
    ],
)  # fmt: skip
def test_prompt_editing_as_in_a1111s_wiki(text, steps, expected):
    assert by_step(text, steps) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a:b:0.25]", [(0.0, 0.25, "a"), (0.25, 1.0, "b")]),
        ("[a::0.5]", [(0.0, 0.5, "a"), (0.5, 1.0, "")]),
        ("[a:b:0.0]", [(0.0, 1.0, "b")]),
        ("[a:b:1.0]", [(0.0, 1.0, "a")]),
        ("[a:b:5]", [(0.0, 0.25, "a"), (0.25, 1.0, "b")]),  # of 20, A1111's default
    ],
)
def test_shares_of_sampling_need_no_step_count(text, expected):
    spans = read_schedule(text).spans
    assert [(span.start, span.end, span.text) for span in spans] == expected


@pytest.mark.parametrize(("text", "warned"), [("[a:b:5]", 1), ("[a|b]", 1), ("[a:b:0.5]", 0)])
def test_steps_that_had_to_be_assumed_are_warned_about(text, warned):
    assert len(read_schedule(text).warnings) == warned
    assert read_schedule(text, 20).warnings == ()


@pytest.mark.parametrize("text", ["a|b [c:d:0.5]", "[c:d:0.5] \\", "[a|b:c] [c:d:0.5]"])
def test_what_a1111s_grammar_has_no_place_for_stops_prompt_editing_and_says_so(text):
    schedule = read_schedule(text)
    assert [span.text for span in schedule.spans] == [text]
    assert "prompt editing was not read" in schedule.warnings[0]


def test_a_schedule_too_large_to_write_out_is_refused():
    text = "".join(f"[x:0.{number:06}]" for number in range(1, 4000))
    assert "too many" in read_schedule(text).warnings[0]


def test_a_schedule_of_too_many_steps_is_refused_before_any_is_written():
    started = time.process_time()
    schedule = read_schedule("[a|b]", 10**7)
    assert "too many" in schedule.warnings[0]
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("syntax", ["comfy", "a1111"])
@pytest.mark.parametrize("steps", [-1, 10_001])
def test_steps_are_those_that_the_node_can_have(syntax, steps):
    assert read(TOKENIZER, "a [b|c]", syntax=syntax, steps=10_000).parts
    with pytest.raises(OptionError, match=f"^steps {steps} is not between 0 and 10000"):
        read(TOKENIZER, "a [b|c]", syntax=syntax, steps=steps)


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
    parts = parse_a1111(text).parts
    assert [(part.text, part.strength) for part in parts] == expected


def test_and_says_by_what_to_multiply_cfg():
    assert "cfg by 3" in parse_a1111("a :1.2 AND b :1.8").warnings[0]
    assert parse_a1111("a :0.3 AND b :0.7").warnings == ()


def test_weights_that_comfyui_cannot_average_are_an_obstacle():
    assert "cannot mean" in parse_a1111("a AND b :-1").obstacle
    assert parse_a1111("a AND b :-0.5").obstacle is None


def test_extra_networks_are_taken_out_and_named():
    text, taken = take_networks("a <lora:x:0.8>b<hypernet:y> < c <x:> <lora:")
    assert text == "a b < c <x:> <lora:"
    assert taken == ["<lora:x:0.8>", "<hypernet:y>"]
    assert "<lora:x:1> is not applied" in parse_a1111("cat <lora:x:1>").warnings[0]


def test_break_begins_a_chunk():
    tokens = chunks("cat BREAK dog")
    assert contents(tokens) == [[2368], [1929]]


def test_break_inside_brackets_keeps_their_weight():
    first, second = parse_attention("(cat BREAK dog:1.5)")[0]
    assert (first, second) == ((Segment("cat", 1.5),), (Segment("dog", 1.5),))


@pytest.mark.parametrize("text", ["BREAKFAST", "break", "xBREAK"])
def test_only_the_word_break_breaks(text):
    assert len(parse_attention(text)[0]) == 1


@pytest.mark.parametrize(
    ("count", "expected"), [(75, 1), (76, 2), (150, 2), (151, 3), (225, 3), (226, 4)]
)
def test_chunks_hold_75_tokens(count, expected):
    assert len(chunks("cat " * count).chunks) == expected
    assert len(TOKENIZER.tokenize("cat " * count).chunks) == expected


@pytest.mark.parametrize(
    ("after_comma", "first"),
    [(5, 70), (19, 56), (20, 75)],  # A1111: no more than 20, comma included
)
def test_what_follows_the_last_comma_goes_to_the_next_chunk(after_comma, first):
    text = "cat " * (74 - after_comma) + "," + " dog" * (after_comma + 3)
    assert [len(chunk) for chunk in contents(chunks(text))] == [first, 75 + 3 - first]


@pytest.mark.parametrize("tokenize", [chunks, TOKENIZER.tokenize], ids=["a1111", "comfy"])
def test_words_are_kept_whole_on_request(tokenize):
    text = "a " + "supercalifragilistic " * 40
    assert tokenize(text).cut_words() != []
    whole = tokenize(text, keep_words=True)
    assert whole.cut_words() == []
    assert whole.token_count == tokenize(text).token_count


@pytest.mark.parametrize("text", ["cat, " * 40, "a (b:1.3) c", "(embedding:a1111:1.2) x"])
def test_keeping_words_changes_nothing_where_none_is_cut(text):
    plain, whole = TOKENIZER.tokenize(text), TOKENIZER.tokenize(text, keep_words=True)
    assert str(plain.pairs()) == str(whole.pairs())


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("a kohya portrait", {"kohya": 4}),
        ("a (KOHYA:1.2), multi", {"kohya": 4, "multi": 2}),
        ("embedding:kohya, x", {"kohya": 4}),
        ("kohyas", {}),
    ],
)
def test_embeddings_need_no_prefix(text, used):
    assert {one.name: one.rows for one in chunks(text).embeddings} == used


def test_the_longest_name_of_an_embedding_wins(tmp_path):
    for name in ("red", "red car"):
        save_file({"emb_params": torch.zeros(1, 32)}, tmp_path / f"{name}.safetensors")
    tokenizer = SD2Tokenizer(embedding_directory=str(tmp_path)).clip_h
    tokenizer.embedding_size = 32
    tokens = tokenizer.tokenize_sections([[Segment("a red car, red", 1.0)]])
    assert [one.name for one in tokens.embeddings] == ["red car", "red"]


def test_an_embedding_of_another_width_stays_text_and_is_reported():
    tokens = chunks("a wrongwidth thing")
    assert "48 wide" in tokens.ignored[0].reason
    assert contents(tokens) == contents(TOKENIZER.tokenize("a wrongwidth thing"))


def test_an_embedding_that_does_not_fit_begins_a_chunk():
    tokens = chunks("cat " * 73 + "kohya")
    assert [len(chunk) for chunk in contents(tokens)] == [73, 4]


ROUND_TRIPS = [
    *ATTENTION,
    "((a:1.2) b)",
    "[x] y",
    r"a \(b\) (c\\:1.2)",
    r"ends with \\(x:1.2)",
    "(a:b:1.2) c:d",
    "(:a:1.3)",
    ": (a) :1.2)",
    "((((deep:1.1):0.9):1.3):-1)",
    "(unclosed [twice",
]


def merged(parsed):
    joined = []
    for text, weight in parsed:
        if joined and joined[-1][1] == pytest.approx(weight, rel=1e-8):
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined


SYNTAX = "abBREAK AND,.:|()[]\\<>lora0123456789 \n"


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(), st.text(alphabet=SYNTAX)), st.booleans())
def test_any_text_makes_whole_chunks(text, keep_words):
    for part in parse_a1111(text, 8).parts:
        tokens = TOKENIZER.tokenize_sections(part.sections, keep_words=keep_words)
        for chunk in tokens.pairs():
            assert len(chunk) == 77
            assert chunk[0] == (49406, 1.0)
            assert any(type(value) is int and value == 49407 for value, _ in chunk)


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000 + "x", "[" * 10_000 + "x" + "]" * 10_000, "(x:" * 10_000, "x)" * 10_000,
     "[a:" * 10_000 + "b" + ":0.5]" * 10_000, "<lora:" * 10_000, " " * 20_000, "(a" * 10_000,
     "[a|b]" * 200, "(a:" + "9" * 20_000 + ")", "\\" * 20_001, "[:" * 10_000 + "]" * 10_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_runs_of_one_thing_are_read_in_a_moment(text):
    started = time.process_time()
    prompt = parse_a1111(text, 4)
    assert prompt.parts
    assert time.process_time() - started < 2
