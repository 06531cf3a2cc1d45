"""A text as a schedule of prompts, in each syntax."""

import pytest
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.tokens.tokenize_text import SYNTAXES, tokenize_text

TOKENIZER = SD2Tokenizer().clip_h


def test_comfyuis_syntax_makes_one_prompt():
    schedule = tokenize_text(TOKENIZER, "a cat # and (b:1.2)")
    assert schedule.is_plain
    assert schedule.report() == schedule.prompts[0].tokens.report()


def test_what_looks_like_a1111s_is_one_line_of_comfyuis_report():
    schedule = tokenize_text(TOKENIZER, "a [cat:dog:0.5] AND b")
    [line] = [line for line in schedule.report().splitlines() if "A1111" in line]
    assert "[cat:dog:0.5], AND; set syntax to a1111" in line
    meant = tokenize_text(TOKENIZER, "a [cat:dog:0.5] BREAK b", syntax="a1111")
    assert "A1111" not in meant.report()


@pytest.mark.parametrize(("text", "line"), [
    ("# quality words\nmasterpiece, cat # not this\n# nor this\n", "left out: 3 comments"),
    ("[cat:dog:0.5] # x", "left out: 1 comment ("),
])  # fmt: skip
def test_the_report_counts_a1111s_comments(text, line):
    assert line in tokenize_text(TOKENIZER, text, syntax="a1111").report()


def test_a1111s_comments_make_no_tokens():
    text = "# quality words\nmasterpiece, cat # not this\n# nor this\n"
    [with_comments] = tokenize_text(TOKENIZER, text, syntax="a1111").prompts
    [without] = tokenize_text(TOKENIZER, "masterpiece, cat", syntax="a1111").prompts
    assert with_comments.tokens.pairs() == without.tokens.pairs()


def test_prompt_editing_makes_prompts_with_times():
    schedule = tokenize_text(TOKENIZER, "a [cat:dog:0.25]", syntax="a1111")
    assert not schedule.is_plain
    assert [(prompt.text, prompt.when()) for prompt in schedule.prompts] == [
        ("a cat", "0 to 0.25"),
        ("a dog", "0.25 to 1"),
    ]


def test_and_makes_prompts_with_strengths():
    schedule = tokenize_text(TOKENIZER, "cat :1.5 AND dog", syntax="a1111")
    assert [prompt.when() for prompt in schedule.prompts] == ["strength 1.5", "strength 1"]


def test_a_prompt_that_comes_back_is_tokenized_once():
    first, _, third, _ = tokenize_text(TOKENIZER, "[cat|dog]", syntax="a1111", steps=4).prompts
    assert first.tokens is third.tokens


def test_the_report_ends_with_the_error():
    schedule = tokenize_text(TOKENIZER, "cat AND dog :-1", syntax="a1111")
    assert schedule.report().splitlines()[-1] == f"error: {schedule.error}"


def test_the_report_names_no_more_than_twelve_prompts():
    report = tokenize_text(TOKENIZER, "[a|b|c]", syntax="a1111", steps=30).report()
    assert "30 parts" in report
    assert report.count(" to ") - 1 == 12
    assert "… and 18 more parts" in report


def test_the_table_lists_each_token_of_each_prompt():
    table = tokenize_text(TOKENIZER, "[cat:dog:0.5] (x:2)", syntax="a1111").table()
    rows = [line.split() for line in table.splitlines() if line.startswith("    1")]
    assert [row[2:] for row in rows] == [["1", "cat"], ["2", "x"], ["1", "dog"], ["2", "x"]]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_words_are_kept_whole_in_each_syntax(syntax):
    text = "a " + "supercalifragilistic " * 40
    cut, whole = (
        tokenize_text(TOKENIZER, text, syntax=syntax, chunk_split=split).prompts[0].tokens
        for split in ("tokens", "words")
    )
    assert cut.cut_words()
    assert not whole.cut_words()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("text", [None, ["a cat"]], ids=["None", "list"])
def test_what_is_not_text_is_named_in_each_syntax(syntax, text):
    with pytest.raises(OptionError, match=f"The text is a {type(text).__name__}, not a string"):
        tokenize_text(TOKENIZER, text, syntax=syntax)
