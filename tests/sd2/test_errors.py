"""Lists in messages stay short."""

import pytest
from sd2_clip.sd2.errors import and_more, plain_text


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"),
     (dict.fromkeys("abcd"), "a, b and 2 more")],
)  # fmt: skip
def test_the_first_few_are_listed_and_the_rest_counted(items, text):
    assert and_more(items, 2) == text


def test_long_messages_are_cut_before_their_characters_are_escaped():
    text = plain_text("\x1b" * 5_000, 100)
    assert len(text) == 100
    assert text.endswith(" … (5,000 characters)")
    assert plain_text("a\x1bb", 100) == r"a\x1bb"
