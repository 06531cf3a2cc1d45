import os

import pytest
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.bounded_yaml import read_yaml
from sd2_clip.sd2.files.limits import MAX_YAML_BYTES

LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
)


def read(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def test_aliases_and_merges_are_read(tmp_path):
    text = "base: &base {a: 1}\nown:\n  <<: *base\n  b: 2\nsame: *base\n"
    assert read(tmp_path, text) == {
        "base": {"a": 1},
        "own": {"a": 1, "b": 2},
        "same": {"a": 1},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(LAUGHS, "too many values", id="aliases of aliases"),
        pytest.param(MERGES, "too many values", id="merges of merges"),
        pytest.param("a: &a [*a]", "too many values", id="contains itself"),
        pytest.param("- x\n" * 20_001, "too many values", id="long"),
        pytest.param("[" * 101 + "]" * 101, "levels deep", id="deep"),
        pytest.param("[" * 100_000, "levels deep", id="deep and open"),
        pytest.param(" " * (MAX_YAML_BYTES + 1), "too large", id="large"),
        pytest.param("a: 2024-99-99", "not readable as YAML", id="date"),
        pytest.param("a: !!timestamp x", "not readable as YAML", id="no date"),
        pytest.param("a: !!bool x", "not readable as YAML", id="no truth"),
        pytest.param("a: !!int ''", "not readable as YAML", id="no number"),
        pytest.param("a: !!binary é", "not readable as YAML", id="no bytes"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "not readable", id="code"),
        pytest.param("? [a]\n: b", "not readable as YAML", id="list as key"),
        pytest.param("a: " + "9" * 5_000, "not readable as YAML", id="long number"),
        pytest.param("a: *b", "not readable as YAML", id="alias of nothing"),
        pytest.param("a: 1\n---\nb: 2", "not readable as YAML", id="two documents"),
        pytest.param(b"\xff\xfe\xff", "not readable as YAML", id="not text"),
        pytest.param("a: \x00", "not readable as YAML", id="NUL"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_read_is_one_sentence(tmp_path, text, words):
    with pytest.raises(UnreadableFileError, match=words) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "file.yaml") in message
    assert "\n" not in message
    assert len(message) <= 1_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UnreadableFileError, match="is a named pipe"):
        read_yaml(tmp_path / "pipe.yaml")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "nothing.yaml")
