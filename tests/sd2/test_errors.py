"""Lists in messages stay short."""

import pytest
from sd2_clip.sd2.errors import and_more


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"),
     (dict.fromkeys("abcd"), "a, b and 2 more")],
)  # fmt: skip
def test_the_first_few_are_listed_and_the_rest_counted(items, text):
    assert and_more(items, 2) == text
