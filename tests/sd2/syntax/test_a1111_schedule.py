"""A1111's prompt editing: what its own documentation says, and what is promised here."""

import time

import pytest
from sd2_clip.sd2.syntax.a1111_schedule import parse_schedule


def by_step(text, steps):
    return [[round(span.end * steps), span.text] for span in parse_schedule(text, steps).spans]


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
    spans = parse_schedule(text).spans
    assert [(span.start, span.end, span.text) for span in spans] == expected


@pytest.mark.parametrize(("text", "warned"), [("[a:b:5]", 1), ("[a|b]", 1), ("[a:b:0.5]", 0)])
def test_steps_that_had_to_be_assumed_are_warned_about(text, warned):
    assert len(parse_schedule(text).warnings) == warned
    assert parse_schedule(text, 20).warnings == ()


@pytest.mark.parametrize("text", ["a|b [c:d:0.5]", "[c:d:0.5] \\", "[a|b:c] [c:d:0.5]"])
def test_what_a1111s_grammar_does_not_accept_stops_prompt_editing_with_a_warning(text):
    schedule = parse_schedule(text)
    assert [span.text for span in schedule.spans] == [text]
    assert "prompt editing is ignored" in schedule.warnings[0]


def test_a_schedule_too_large_to_write_out_is_refused():
    text = "".join(f"[x:0.{number:06}]" for number in range(1, 4000))
    assert "too many" in parse_schedule(text).warnings[0]


def test_a_schedule_of_too_many_steps_is_refused_before_any_is_written():
    started = time.process_time()
    schedule = parse_schedule("[a|b]", 10**7)
    assert "too many" in schedule.warnings[0]
    assert time.process_time() - started < 0.5
