"""Chunks of tokens: equal to ComfyUI's, and what is said about them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.sd2_tokenizer import SD2ClipHTokenizer, SD2Tokenizer
from sd2_clip.sd2.tokens.sd_tokenizer import SD1Tokenizer

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "tokens.json"
PROMPTS = json.loads(GOLDEN.read_text(encoding="utf-8"))["prompts"]

START, END, PAD = 49_406, 49_407, 0
CAT, A = 2368, 320  # "cat</w>", "a</w>"


@pytest.fixture(scope="module")
def tokenizer() -> SD2Tokenizer:
    return SD2Tokenizer()


def ids(chunk: list[tuple[Any, ...]]) -> list[int]:
    return [entry[0] for entry in chunk]


def test_reference_has_all_its_prompts() -> None:
    assert len(PROMPTS) == 269


@pytest.mark.parametrize("prompt", PROMPTS, ids=[f"{i:03}" for i in range(len(PROMPTS))])
def test_chunks_equal_comfyuis(tokenizer: SD2Tokenizer, prompt: dict[str, Any]) -> None:
    chunks = tokenizer.tokenize_with_weights(prompt["text"])["h"]
    assert [ids(chunk) for chunk in chunks] == prompt["ids"]
    # Weights of nan and inf are the one thing of ComfyUI's that we do not reproduce.
    for chunk, weights in zip(chunks, prompt["weights"], strict=True):
        usable = [1.1 if not math.isfinite(weight) else weight for weight in weights]
        assert [weight for _, weight in chunk] == usable


def test_max_length_without_room_for_a_token_is_refused() -> None:
    with pytest.raises(OptionError, match="clip_h_max_length is 2"):
        SD2ClipHTokenizer(tokenizer_data={"clip_h_max_length": 2})


def test_end_token_written_in_a_text_is_the_end_token(tokenizer: SD2Tokenizer) -> None:
    (chunk,) = tokenizer.tokenize("a<|endoftext|>a").pairs()
    assert ids(chunk)[:5] == [START, A, END, A, END]


def test_disable_weights_reads_brackets_as_text(tokenizer: SD2Tokenizer) -> None:
    plain = tokenizer.tokenize_with_weights("(cat:1.5)", disable_weights=True)
    assert plain == tokenizer.tokenize_with_weights(r"\(cat:1.5\)")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"llama_template": "x", "images": []},
        {"tokenizer_options": {}},
        {"tokenizer_options": {"clip_h_min_length": 90, "clip_h_min_padding": 90}},
        {"min_length": 90},
    ],
    ids=["for other encoders", "no options", "more padding than the encoder takes", "min_length"],
)
def test_options_of_other_encoders_change_nothing(
    tokenizer: SD2Tokenizer, kwargs: dict[str, Any]
) -> None:
    plain = tokenizer.tokenize_with_weights("a cat")
    assert tokenizer.tokenize_with_weights("a cat", **kwargs) == plain


def test_sd1_pads_with_the_end_token() -> None:
    chunks = SD1Tokenizer().tokenize_with_weights("a")
    assert ids(chunks["l"][0]) == [START, A, *[END] * 75]


@settings(deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.text(st.characters(), max_size=100),  # half surrogate pairs too
        st.lists(
            st.sampled_from(["(", ")", ":1.2)", " embedding:", "nine", "cat ", ",", "\\", "\0"])
        ).map("".join),
    )
)
def test_any_text_gives_whole_chunks(text: str) -> None:
    chunks = SD2Tokenizer(["no such folder"]).tokenize_with_weights(text)["h"]
    assert chunks
    for chunk in chunks:
        assert len(chunk) == 77
        assert chunk[0] == (START, 1.0)
        assert END in ids(chunk)


@pytest.mark.parametrize("text", [["a cat", "a dog"], None, 5, b"a cat"])
def test_what_is_no_text_is_named(text: object) -> None:
    with pytest.raises(OptionError, match=f"The text is a {type(text).__name__}, not a string"):
        SD2Tokenizer().tokenize_with_weights(text)  # type: ignore[arg-type]


def test_untokenize_gives_a_text_for_every_entry(with_embeddings: SD2Tokenizer) -> None:
    (chunk,) = with_embeddings.tokenize_with_weights("cat (embedding:one:1.2)")["h"]
    texts = [text for _, text in with_embeddings.untokenize(chunk)]
    assert texts[:5] == [
        "<|startoftext|>",
        "cat</w>",
        "<embedding of clip_h>",
        "<|endoftext|>",
        "!",
    ]
    assert [entry for entry, _ in with_embeddings.untokenize(chunk)][1] == (CAT, 1.0)
