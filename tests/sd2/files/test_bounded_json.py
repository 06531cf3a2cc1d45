import json

import pytest
from sd2_clip.sd2.files import bounded_json
from sd2_clip.sd2.files.bounded_json import JsonError, check_json_size, parse_json
from sd2_clip.sd2.files.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_any_unicode_encoding_is_parsed(encoding):
    assert parse_json('{"a": "猫"}'.encode(encoding)) == {"a": "猫"}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_depth_is_limited():
    assert parse_json(nested(MAX_JSON_DEPTH)) is not None
    for depth in (MAX_JSON_DEPTH + 1, 100_000):
        with pytest.raises(JsonError, match=r"^too deep"):
            parse_json(nested(depth))


def test_depth_of_objects_is_limited():
    with pytest.raises(JsonError, match=r"^too deep"):
        parse_json('{"a":' * 300 + "1" + "}" * 300)


def test_size_is_limited():
    with pytest.raises(JsonError, match=r"^too large"):
        check_json_size(MAX_JSON_BYTES + 1)


@pytest.mark.parametrize("item", ["[]", "{}", "0", '""'])
def test_memory_is_estimated_before_parsing(item, monkeypatch):
    monkeypatch.setattr(bounded_json, "MAX_JSON_MEMORY", 100_000)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(JsonError, match=r"^too many values"):
        parse_json("[" + ",".join([item] * 20_000) + "]")


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '"\x00"', "9" * 5_000])
def test_what_is_not_json_is_named(text):
    with pytest.raises(JsonError, match=r"^not JSON"):
        parse_json(text)


def test_bytes_that_are_no_text_are_told_apart():
    with pytest.raises(UnicodeDecodeError):
        parse_json(b"\xff\xd8\xff\xe0\x00\x10")
