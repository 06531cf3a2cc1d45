"""Where chunks end, in each syntax."""

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from sd2_clip.sd2.sd2_tokenizer import SD2ClipHTokenizer, SD2Tokenizer
from sd2_clip.sd2.syntax.a1111 import parse_a1111
from sd2_clip.sd2.tokens.chunks import MAX_TEXT_TOKENS, pad_chunk

TOKENIZER = SD2Tokenizer(embedding_directory=str(tiny.GOLDEN / "embeddings")).clip_h
TOKENIZER.embedding_size = tiny.CONFIG["hidden_size"]
START, END, PAD = 49_406, 49_407, 0
CAT, A = 2368, 320  # "cat</w>", "a</w>"


def a1111(text, **options):
    [prompt] = parse_a1111(text).prompts
    return TOKENIZER.tokenize_a1111(prompt.sections, **options)


def contents(tokens):
    return [[token.value for token in chunk if token.word_id] for chunk in tokens.chunks]


def ids(chunk):
    return [value for value, *_ in chunk]


@pytest.mark.parametrize("count", [0, 1, 75, 76, 200])
def test_one_chunk_of_ids_is_cut_and_padded(count):
    held = min(count, MAX_TEXT_TOKENS)
    assert pad_chunk([A] * count) == [START, *[A] * held, END, *[PAD] * (75 - held)]


@pytest.mark.parametrize(
    ("count", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3), (225, 3), (226, 4)]
)
def test_a_chunk_takes_75_tokens(count, chunks):
    text = TOKENIZER.tokenize("a " * count)
    assert (text.token_count, len(text.chunks)) == (count, chunks)
    for number, chunk in enumerate(text.pairs()):
        held = min(75, count - 75 * number)
        assert ids(chunk) == [START, *[A] * held, END, *[PAD] * (75 - held)]


def test_a_short_group_moves_to_the_next_chunk_whole():
    first, second = TOKENIZER.tokenize("a " * 70 + "(cat cat cat cat cat cat cat:1.5)").pairs()
    assert ids(first)[70:] == [A, END, *[PAD] * 5]
    assert second[1:8] == [(CAT, 1.5)] * 7


def test_a_group_of_eight_is_cut_where_the_chunk_is_full():
    first, second = TOKENIZER.tokenize("a " * 70 + "(cat cat cat cat cat cat cat cat:1.5)").pairs()
    assert first[70:] == [(A, 1.0), *[(CAT, 1.5)] * 5, (END, 1.0)]
    assert second[1:5] == [*[(CAT, 1.5)] * 3, (END, 1.0)]


def test_a_group_larger_than_a_tiny_chunk_is_cut():
    tokenizer = SD2ClipHTokenizer(tokenizer_data={"clip_h_max_length": 5})
    assert [ids(chunk) for chunk in tokenizer.tokenize("a a a a").pairs()] == [
        [START, A, A, A, END],
        [START, A, END, PAD, PAD],
    ]


def test_break_begins_a_chunk():
    tokens = a1111("cat BREAK dog")
    assert contents(tokens) == [[2368], [1929]]


@pytest.mark.parametrize(
    ("count", "expected"), [(75, 1), (76, 2), (150, 2), (151, 3), (225, 3), (226, 4)]
)
def test_chunks_hold_75_tokens(count, expected):
    assert len(a1111("cat " * count).chunks) == expected
    assert len(TOKENIZER.tokenize("cat " * count).chunks) == expected


@pytest.mark.parametrize(
    ("after_comma", "first"),
    [(5, 70), (19, 56), (20, 75)],  # A1111: no more than 20, comma included
)
def test_what_follows_the_last_comma_goes_to_the_next_chunk(after_comma, first):
    text = "cat " * (74 - after_comma) + "," + " dog" * (after_comma + 3)
    assert [len(chunk) for chunk in contents(a1111(text))] == [first, 75 + 3 - first]


@pytest.mark.parametrize("tokenize", [a1111, TOKENIZER.tokenize], ids=["a1111", "comfy"])
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


def test_an_embedding_that_does_not_fit_begins_a_chunk():
    tokens = a1111("cat " * 73 + "kohya")
    assert [len(chunk) for chunk in contents(tokens)] == [73, 4]


SYNTAX = "abBREAK AND,.:|()[]\\<>lora0123456789 \n"


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(), st.text(alphabet=SYNTAX)), st.booleans())
@pytest.mark.slow
def test_any_text_makes_whole_chunks(text, keep_words):
    for prompt in parse_a1111(text, 8).prompts:
        tokens = TOKENIZER.tokenize_a1111(prompt.sections, keep_words=keep_words)
        for chunk in tokens.pairs():
            assert len(chunk) == 77
            assert chunk[0] == (49406, 1.0)
            assert any(type(value) is int and value == 49407 for value, _ in chunk)
