"""CLIP's vocabulary: where it comes from, and the ids it gives."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import clip_merges
import pytest
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.tokens.bpe import (
    MERGES_FILE,
    clip_tokenizer,
    clip_vocabulary,
    read_vocabulary,
)

ROOT = Path(__file__).parents[3]
# Of the 48,894 lines alone; the same lines as merges.txt of openai/clip-vit-large-patch14.
MERGES_SHA256 = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"


def test_shipped_merges_are_openais() -> None:
    merges = gzip.decompress(MERGES_FILE.read_bytes())
    assert hashlib.sha256(merges).hexdigest() == MERGES_SHA256


def test_notice_names_source_and_shipped_file() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert hashlib.sha256(MERGES_FILE.read_bytes()).hexdigest() in notice
    assert clip_merges.SOURCE_SHA256 in notice


def test_packing_takes_the_used_merges_only() -> None:
    lines = ["#version: made up", *(f"a{i} b{i}" for i in range(60_000))]
    source = gzip.compress("\n".join(lines).encode())
    merges = clip_merges.used_merges(source).decode().splitlines()
    assert merges == lines[1 : 1 + 48_894]


def test_vocabulary_has_the_size_and_special_tokens_of_clip() -> None:
    vocabulary = clip_vocabulary()
    assert len(vocabulary.ids) == 49_408
    assert (vocabulary.start, vocabulary.end) == (49_406, 49_407)


# Ids from OpenAI's SimpleTokenizer and transformers' fast CLIP tokenizer, which agree on these.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("!", [256]),  # not 0, which SD2's own tokenizer folder makes of it
        ("!!", [748]),
        ("!!!", [995]),
        ("a photograph of an astronaut", [320, 8853, 539, 550, 18376]),
        ("A  PHOTOGRAPH\tof\nan astronaut ", [320, 8853, 539, 550, 18376]),
        ("it's", [585, 568]),
        ("Łódź", [40419, 8891, 67, 129, 374]),
        ("12", [272, 273]),
        ("中文", [19759, 255, 29032, 485]),
        ("<|endoftext|>", [49407]),
        ("a<|startoftext|>b", [320, 49406, 321]),
    ],
    ids=repr,
)
def test_ids(text: str, ids: list[int]) -> None:
    assert clip_tokenizer().encode(text) == ids


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("<|EndOfText|>", "<|endoftext|>"),  # transformers' fast tokenizer; open_clip splits it
        ("e\u0301", "é"),
        ("a\ud800b", "a\ufffdb"),
        ("\U00016ea0", "\U00016ebb"),  # tokenizers 0.21 is older
        ("\ua7ce", "\ua7cf"),
    ],
    ids=["special token in capitals", "NFC", "half a surrogate pair", "Unicode 17", "Unicode 17 b"],
)
def test_spellings_of_the_same_text(text: str, same_as: str) -> None:
    assert clip_tokenizer().encode(text) == clip_tokenizer().encode(same_as)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("&amp;", "&"), ("\u2019", "'"), ("\ufb01", "fi")],
    ids=["HTML entity", "curly quote", "ligature"],
)
def test_text_is_not_cleaned_as_open_clip_does(text: str, cleaned: str) -> None:
    assert clip_tokenizer().encode(text) != clip_tokenizer().encode(cleaned)


def test_readable_text_of_tokens() -> None:
    vocabulary = clip_vocabulary()
    assert vocabulary.readable(*clip_tokenizer().encode("łódź")) == "łódź"
    assert vocabulary.readable(clip_tokenizer().encode("łódź")[-1]) == r"\xba"


def test_transformers_object_gives_the_same_ids_without_warnings() -> None:
    tokenizer = clip_tokenizer()
    text = "a photo of Łódź! " * 50
    ids = tokenizer.transformers(text)["input_ids"]
    assert ids == [49_406, *tokenizer.encode(text), 49_407]
    assert tokenizer.transformers.decode(ids, skip_special_tokens=True).startswith(
        "a photo of łódź"
    )


@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_transformers_clip_tokenizer_agrees(tmp_path: Path) -> None:
    import transformers

    kind = getattr(transformers, "CLIPTokenizerFast", None) or transformers.CLIPTokenizer
    folder = _write_tokenizer(tmp_path)
    peer = kind.from_pretrained(folder)
    for text in ("A photo of Łódź's “old” town…", "don't!! 2x2 #tag @you 😀", "a<|endoftext|>b"):
        assert peer(text)["input_ids"][1:-1] == clip_tokenizer().encode(text)


def test_a_tokenizer_folder_gives_the_same_vocabulary(tmp_path: Path) -> None:
    read = read_vocabulary(_write_tokenizer(tmp_path))
    assert read.ids == clip_vocabulary().ids
    assert read.merges == clip_vocabulary().merges


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"vocab\.json"):
        read_vocabulary(tmp_path)


def test_tokenizing_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, runpy; runpy.run_path('tests/conftest.py');"
        "from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer;"
        "SD2Tokenizer().tokenize('a (cat:1.2)');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _write_tokenizer(folder: Path) -> Path:
    vocabulary = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
