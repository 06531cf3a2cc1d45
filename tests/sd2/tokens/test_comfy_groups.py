"""Groups of tokens, and embeddings by their prefix, as ComfyUI makes them."""

import pytest
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

START, END = 49_406, 49_407
CAT, A = 2368, 320  # "cat</w>", "a</w>"


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
        # Quoted, because the name has a blank
        ('embedding:"my style"', "E"),
        ('a embedding:"my style", cat', "a E , cat"),
        ('(embedding:"my style":1.2) cat', "E cat"),
        ('embedding:"ink \\(old\\)"', "E"),
        ('embedding:"one" cat', "E cat"),
        ('embedding:"my stile" cat', "cat"),
        ('embedding:"my style', "style"),  # not closed: the name ends at the blank
        # ComfyUI: IndexError
        ("embedding:", "embed ding :"),
        ("a embedding: ", "a embed ding :"),
    ],
)
def test_embedding_names(with_embeddings: SD2Tokenizer, text: str, tokens: str) -> None:
    assert kinds(with_embeddings, text) == tokens


def test_without_a_folder_embedding_names_are_text() -> None:
    assert kinds(SD2Tokenizer(), "embedding:one") == "embed ding : one"


def test_weight_applies_to_every_vector(with_embeddings: SD2Tokenizer) -> None:
    (chunk,) = with_embeddings.tokenize("(embedding:nine:1.2)").pairs()
    assert [weight for _, weight in chunk] == [1.0, *[1.2] * 9, *[1.0] * 67]


def test_word_ids_number_the_groups() -> None:
    (chunk,) = SD2Tokenizer().tokenize_with_weights("a (cat) a", return_word_ids=True)["h"]
    assert chunk[:5] == [(START, 1.0, 0), (A, 1.0, 1), (CAT, 1.1, 2), (A, 1.0, 3), (END, 1.0, 0)]
