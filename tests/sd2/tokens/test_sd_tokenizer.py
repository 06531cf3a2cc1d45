"""Chunks of tokens: equal to ComfyUI's, and what is said about them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
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


@pytest.mark.parametrize(
    ("count", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3), (225, 3), (226, 4)]
)
def test_a_chunk_takes_75_tokens(tokenizer: SD2Tokenizer, count: int, chunks: int) -> None:
    text = tokenizer.tokenize("a " * count)
    assert (text.token_count, len(text.chunks)) == (count, chunks)
    for number, chunk in enumerate(text.pairs()):
        held = min(75, count - 75 * number)
        assert ids(chunk) == [START, *[A] * held, END, *[PAD] * (75 - held)]


def test_a_short_group_moves_to_the_next_chunk_whole(tokenizer: SD2Tokenizer) -> None:
    first, second = tokenizer.tokenize("a " * 70 + "(cat cat cat cat cat cat cat:1.5)").pairs()
    assert ids(first)[70:] == [A, END, *[PAD] * 5]
    assert second[1:8] == [(CAT, 1.5)] * 7


def test_a_group_of_eight_is_cut_where_the_chunk_is_full(tokenizer: SD2Tokenizer) -> None:
    first, second = tokenizer.tokenize("a " * 70 + "(cat cat cat cat cat cat cat cat:1.5)").pairs()
    assert first[70:] == [(A, 1.0), *[(CAT, 1.5)] * 5, (END, 1.0)]
    assert second[1:5] == [*[(CAT, 1.5)] * 3, (END, 1.0)]


def test_a_group_larger_than_a_tiny_chunk_is_cut() -> None:
    tokenizer = SD2ClipHTokenizer(tokenizer_data={"clip_h_max_length": 5})
    assert [ids(chunk) for chunk in tokenizer.tokenize("a a a a").pairs()] == [
        [START, A, A, A, END],
        [START, A, END, PAD, PAD],
    ]


def test_max_length_without_room_for_a_token_is_refused() -> None:
    with pytest.raises(OptionError, match="clip_h_max_length is 2"):
        SD2ClipHTokenizer(tokenizer_data={"clip_h_max_length": 2})


def test_word_ids_number_the_groups(tokenizer: SD2Tokenizer) -> None:
    (chunk,) = tokenizer.tokenize_with_weights("a (cat) a", return_word_ids=True)["h"]
    assert chunk[:5] == [(START, 1.0, 0), (A, 1.0, 1), (CAT, 1.1, 2), (A, 1.0, 3), (END, 1.0, 0)]


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


def test_constructors_take_what_comfyui_passes() -> None:
    tokenizer = SD2Tokenizer(embedding_directory=None, tokenizer_data={})
    assert isinstance(tokenizer.clip_h, SD2ClipHTokenizer)
    assert tokenizer.state_dict() == {}
    assert (tokenizer.clip_h.start_token, tokenizer.clip_h.end_token) == (START, END)
    assert tokenizer.clip_h.pad_token == PAD
    assert tokenizer.clip_h.tokenizer("cat")["input_ids"] == [START, CAT, END]
    assert tokenizer.decode([START, A, CAT, END]) == "a cat"


def test_tokenizer_data_may_name_another_class() -> None:
    class Other(SD2ClipHTokenizer):
        pass

    tokenizer = SD2Tokenizer(tokenizer_data={"clip_h_tokenizer_class": Other})
    assert type(tokenizer.clip_h) is Other


def test_sd1_pads_with_the_end_token() -> None:
    chunks = SD1Tokenizer().tokenize_with_weights("a")
    assert ids(chunks["l"][0]) == [START, A, *[END] * 75]


@pytest.fixture
def with_embeddings(tmp_path: Path) -> SD2Tokenizer:
    """Knows ``one`` (1 vector), ``nine`` (9) and ``sd1`` (768 wide)."""
    for name, rows, width in (("one", 1, 4), ("nine", 9, 4), ("sd1", 1, 768)):
        save_file({"emb_params": torch.ones(rows, width)}, tmp_path / f"{name}.safetensors")
    tokenizer = SD2Tokenizer([str(tmp_path)])
    tokenizer.clip_h.embedding_size = 4
    return tokenizer


def kinds(tokenizer: SD2Tokenizer, text: str) -> str:
    """The tokens of *text* as readable text, an ``E`` for each embedding's vector."""
    rows = tokenizer.tokenize(text).rows()
    return " ".join(
        "E" if row["kind"] == "embedding" else row["text"] for row in rows if row["word"]
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("embedding:one", "E"),
        ("a embedding:one cat", "a E cat"),
        ("a\nembedding:one\ncat", "a E cat"),
        ("a\tembedding:one", "a E"),
        ("(embedding:one:1.2)", "E"),
        ("embedding: one", "E"),
        ("embedding:one, cat", "E , cat"),
        ("embedding:,one", "E e"),  # what is left is cut by length
        ("embedding:one<lora:x>", "E < lor a : x >"),
        ("embedding:one[a|b] c", "E [ a | b ] c"),
        ("embedding:one.safetensors", "E"),
        ("a,embedding:one", "a , embed ding : one"),
        ("Embedding:one", "embed ding : one"),
        ("embedding:One cat", "cat"),
        ("a embedding:none cat", "a cat"),
        ("a embedding:none, cat", "a , cat"),
        ("a embedding:sd1 cat", "a cat"),
        ("embedding:one:1.2", ""),
        # ComfyUI: IndexError
        ("embedding:", "embed ding :"),
        ("a embedding: ", "a embed ding :"),
    ],
)
def test_embedding_names(with_embeddings: SD2Tokenizer, text: str, tokens: str) -> None:
    assert kinds(with_embeddings, text) == tokens


def test_without_a_folder_embedding_names_are_text(tokenizer: SD2Tokenizer) -> None:
    assert kinds(tokenizer, "embedding:one") == "embed ding : one"


def test_weight_applies_to_every_vector(with_embeddings: SD2Tokenizer) -> None:
    (chunk,) = with_embeddings.tokenize("(embedding:nine:1.2)").pairs()
    assert [weight for _, weight in chunk] == [1.0, *[1.2] * 9, *[1.0] * 67]


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


def test_report_counts_and_names(with_embeddings: SD2Tokenizer) -> None:
    text = with_embeddings.tokenize("a (cat:30) embedding:nine embedding:sd1 embedding:none")
    assert text.report().splitlines()[:3] == [
        "11 tokens, 1 chunk of 77: conditioning of 77 rows",
        "embeddings: nine (9 vectors)",
        "ignored: embedding:sd1: its vectors are 768 wide (CLIP-L of SD 1.x, SDXL, SD3 "
        "and Flux); this text encoder takes 4",
    ]
    assert "ignored: embedding:none: no file of this name" in text.report()
    assert "weight 30" in text.report()


def test_used_embeddings_are_listed_once(with_embeddings: SD2Tokenizer) -> None:
    (used,) = with_embeddings.tokenize("embedding:one embedding:one").embeddings
    assert (used.name, used.rows, len(used.sha256)) == ("one", 1, 64)


def test_words_cut_by_a_chunks_end_are_named(tokenizer: SD2Tokenizer) -> None:
    text = tokenizer.tokenize("a " * 73 + "supercalifragilistic")
    assert text.cut_words() == ["supercali|fragilistic"]
    assert "supercali|fragilistic" in text.report()


def test_a_cut_between_words_is_none(tokenizer: SD2Tokenizer) -> None:
    assert tokenizer.tokenize("cat " * 200).cut_words() == []


def test_an_embedding_cut_by_a_chunks_end_is_named(with_embeddings: SD2Tokenizer) -> None:
    (cut,) = with_embeddings.tokenize("a " * 70 + "embedding:nine").cut_words()
    assert cut == "embedding:nine[5/9] | embedding:nine[6/9]"


def test_rows_are_json_and_in_order(with_embeddings: SD2Tokenizer) -> None:
    rows = json.loads(json.dumps(with_embeddings.tokenize("(Łódź:1.5) embedding:one").rows()))
    assert len(rows) == 77
    assert rows[1] == {
        "id": 40419, "text": "ł", "weight": 1.5, "chunk": 0, "word": 1, "kind": "token",
        "ends_word": False,
    }  # fmt: skip
    embedding = next(row for row in rows if row["kind"] == "embedding")
    assert (embedding["id"], embedding["text"]) == (None, "embedding:one[1/1]")
    assert [row["kind"] for row in rows if row["word"] == 0] == ["start", "end", *["pad"] * 69]


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
