"""Makes workflows, PNGs and YAML files that nobody would write but to harm, each with a name."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

Kind = tuple[str, bytes]
"""A name, and the file."""

ESCAPES = "\x1b]0;PWNED\x07\x1b[2J\u202egone"

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "negative": -5,
    "huge": 2**80,
    "float": 1.5,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "empty text": "",
    "escapes": ESCAPES,
    "surrogate": "\ud800",
    "nul": "a\0b",
    "long": "x" * 10_000,
    "path": "../../../../etc/passwd",
    "braces": "{" * 2_000,
    "list": [],
    "link": ["1", 0],
    "bad link": ["1", -1],
    "object": {},
    "value": {"__value__": [1]},
    "deep": json.loads("[" * 150 + "]" * 150),
}

PROMPT: dict[str, Any] = {
    "1": {"class_type": "LoadSD2CLIP", "inputs": {"clip_name": "nothing.safetensors"}},
    "2": {
        "class_type": "EncodeSD2Text",
        "inputs": {"clip": ["1", 0], "text": "a cat"},
        "_meta": {"title": "Encode"},
    },
    "3": {
        "class_type": "SaveSD2Conditioning",
        "inputs": {"conditioning": ["2", 0], "filename_prefix": "x"},
    },
}

WORKFLOW: dict[str, Any] = {
    "version": 0.4,
    "nodes": [
        {
            "id": 1,
            "type": "LoadSD2CLIP",
            "mode": 0,
            "outputs": [{"name": "CLIP", "type": "CLIP", "links": [1]}],
            "widgets_values": ["nothing.safetensors"],
        },
        {
            "id": 4,
            "type": "SetNode",
            "inputs": [{"name": "CLIP", "type": "CLIP", "link": 1}],
            "widgets_values": ["clip"],
        },
        {
            "id": 5,
            "type": "GetNode",
            "outputs": [{"name": "CLIP", "type": "CLIP", "links": [2]}],
            "widgets_values": ["clip"],
        },
        {
            "id": 2,
            "type": "inner",
            "title": "Encode",
            "mode": 0,
            "inputs": [{"name": "clip", "type": "CLIP", "link": 2}],
            "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING", "links": [3]}],
            "properties": {"proxyWidgets": [["7", "text"]]},
            "widgets_values": ["a {red|green} cat"],
        },
        {
            "id": 3,
            "type": "SaveSD2Conditioning",
            "inputs": [{"name": "conditioning", "type": "CONDITIONING", "link": 3}],
            "widgets_values": ["x"],
            "widgets_values_named": {"filename_prefix": "x"},
        },
        {
            "id": 6,
            "type": "Anything Everywhere",
            "inputs": [{"name": "anything", "type": "CLIP", "link": 2}],
            "properties": {"ue_properties": {"title_regex": None}},
        },
    ],
    "links": [
        [1, 1, 0, 4, 0, "CLIP"],
        {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": 2, "target_slot": 0},
        [3, 2, 0, 3, 0, "CONDITIONING"],
    ],
    "definitions": {
        "subgraphs": [
            {
                "id": "inner",
                "name": "Inner",
                "nodes": [
                    {
                        "id": 7,
                        "type": "EncodeSD2Text",
                        "inputs": [{"name": "clip", "type": "CLIP", "link": 1}],
                        "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}],
                        "widgets_values": ["a cat"],
                    }
                ],
                "links": [[1, -10, 0, 7, 0, "CLIP"], [2, 7, 0, -20, 0, "CONDITIONING"]],
                "inputs": [{"name": "clip", "type": "CLIP"}],
                "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}],
            }
        ]
    },
    "extra": {"ue_links": [{"upstream": "1", "upstream_slot": 0, "downstream": 2}]},
}

HISTORY: dict[str, Any] = {
    "b7c1": {
        "prompt": [5, "b7c1", PROMPT, {"extra_pnginfo": {"workflow": {}}}, ["3"]],
        "outputs": {},
    }
}


def _paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all parts of a document, but not to itself."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, part in items:
        yield (*path, key)
        if isinstance(part, (dict, list)):
            yield from _paths(part, (*path, key))


def _with_part(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def changed_documents() -> Iterator[Kind]:
    """Each part of each document, replaced by each value: about 3,000 workflows."""
    bases = {"prompt": PROMPT, "workflow": WORKFLOW, "history": HISTORY}
    for base_name, base in bases.items():
        for path in _paths(base):
            for value_name, value in VALUES.items():
                name = f"{base_name} {'.'.join(map(str, path))} = {value_name}"
                yield name, json.dumps(_with_part(base, path, value)).encode()


def odd_documents() -> Iterator[Kind]:
    """JSON whose size, nesting, repetition or encoding is the attack."""
    yield "nothing", b""
    yield "NUL", b"\0" * 1_000
    yield "open lists", b"[" * 1_000_000
    yield "open objects", b'{"a":' * 200_000
    yield "long number", b'{"1": ' + b"9" * 100_000 + b"}"
    yield "exponent", b"1e999999999999"
    yield "many keys", b"{" + b",".join(b'"%d":{}' % i for i in range(100_000)) + b"}"
    yield "same key", b"{" + b",".join([b'"1":{"class_type":"A"}'] * 50_000) + b"}"
    yield "empty lists", b"[" + b"[]," * 2_000_000 + b"[]]"
    yield "empty objects", b"[" + b"{}," * 2_000_000 + b"{}]"
    yield "text in text", json.dumps(json.dumps(json.dumps(PROMPT))).encode()
    yield "UTF-16", json.dumps(PROMPT).encode("utf-16")
    yield "UTF-16, cut", json.dumps(PROMPT).encode("utf-16")[:-1]
    yield "lone surrogates", b'{"\\ud800": {"class_type": "\\udfff", "inputs": {"\\ud800": 1}}}'
    yield "emoji", ('"' + "😀" * 1_000_000 + '"').encode()
    yield "self link", b'{"1": {"class_type": "EncodeSD2Text", "inputs": {"clip": ["1", 0]}}}'
    nodes = {str(i): {"class_type": ESCAPES * 20, "inputs": {}} for i in range(2_000)}
    yield "unknown classes", json.dumps(nodes).encode()
    texts = [{"id": i, "type": "Note", "widgets_values": ["{a|b}"]} for i in range(5_000)]
    yield "notes", json.dumps({"nodes": texts, "links": []}).encode()
    doubled = [
        {
            "id": f"s{i}",
            "nodes": [{"id": 1, "type": f"s{i + 1}"}, {"id": 2, "type": f"s{i + 1}"}],
            "links": [],
        }
        for i in range(60)
    ]
    yield (
        "doubling subgraphs",
        json.dumps(
            {"nodes": [{"id": 1, "type": "s0"}], "definitions": {"subgraphs": doubled}}
        ).encode(),
    )


def _chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pngs() -> Iterator[Kind]:
    start, end = b"\x89PNG\r\n\x1a\n", _chunk(b"IEND", b"")
    prompt = json.dumps(PROMPT).encode()
    bomb = zlib.compress(b" " * 200_000_000)
    kinds = {
        "no end": _chunk(b"tEXt", b"prompt\0" + prompt),
        "only a signature": b"",
        "no keyword": _chunk(b"tEXt", prompt) + end,
        "length beyond the end": _chunk(b"tEXt", b"prompt\0", 2**32 - 1),
        "no JSON": _chunk(b"tEXt", b"prompt\0{") + end,
        "bomb": _chunk(b"zTXt", b"prompt\0\0" + bomb) + end,
        "bomb, unwanted": _chunk(b"zTXt", b"other\0\0" + bomb) + end,
        "bombs": _chunk(b"iTXt", b"workflow\0\1\0\0\0" + bomb) * 10 + end,
        "cut zlib": _chunk(b"zTXt", b"prompt\0\0" + zlib.compress(prompt)[:-4]) + end,
        "no zlib": _chunk(b"zTXt", b"prompt\0\0{}") + end,
        "unknown compression": _chunk(b"zTXt", b"prompt\0\7" + prompt) + end,
        "not UTF-8": _chunk(b"iTXt", b"prompt\0\0\0\0\0\xff\xfe") + end,
        "deep": _chunk(b"tEXt", b"prompt\0" + b"[" * 100_000) + end,
        "twice": _chunk(b"tEXt", b"prompt\0" + prompt) * 50_000 + end,
        "empty chunks": _chunk(b"IDAT", b"") * 200_000 + end,
        "escapes": _chunk(b"tEXt", b"prompt\0" + json.dumps({"1": ESCAPES}).encode()) + end,
    }
    for name, data in kinds.items():
        yield name, start + data


def yamls() -> Iterator[Kind]:
    alias_lists = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    merges = "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)
    )
    tail = "comfyui: {base_path: *a9}\nmodel: {params: {cond_stage_config: {target: *a9}}}"
    values = {
        "date": "2024-99-99",
        "far date": "99999-01-01",
        "timestamp": "!!timestamp x",
        "truth": "!!bool x",
        "integer": "!!int ''",
        "float": "!!float x",
        "binary": "!!binary é",
        "set": "!!set {a, b}",
        "pairs": "!!omap [a]",
        "code": "!!python/object/apply:os.system [touch canary]",
        "base 60": "1:" + "59:" * 5_000 + "1",
        "digits": "9" * 5_000,
        "escapes": json.dumps(ESCAPES),
        "nul": '"a\\0b"',
        "surrogate": '"\\ud800"',
        "long": "x" * 100_000,
        "unknown user": "~nobody-of-this-name/models",
        "list": "[a, b]",
        "object": "{a: b}",
        "null": "null",
    }
    yield "aliases", (alias_lists + tail).encode()
    yield "merges", (merges + tail).encode()
    yield "itself", b"comfyui: &a {checkpoints: *a}"
    yield "open lists", b"[" * 500_000
    yield "many values", b"- x\n" * 200_000
    yield "many documents", b"--- a\n" * 50_000
    yield "large", b"# " + b"x" * (2 << 20)
    yield "NUL", b"\0" * 1_000
    yield "UTF-16", "comfyui: {checkpoints: x}".encode("utf-16")
    yield "tabs", b"\t" * 1_000
    yield "plain text", b"x"
    for name, value in values.items():
        yield f"section = {name}", f"comfyui: {value}".encode("utf-8", "surrogatepass")
        yield f"base_path = {name}", f"comfyui: {{base_path: {value}}}".encode()
        yield f"checkpoints = {name}", f"comfyui:\n  checkpoints: {value}".encode()
        yield f"key = {name}", f"? {value}\n: {{checkpoints: x}}".encode()
        yield f"config = {name}", f"model: {{params: {{cond_stage_config: {value}}}}}".encode()
        yield (
            f"layer = {name}",
            "model: {params: {cond_stage_config: {target: a.FrozenOpenCLIPEmbedder, "
            f"params: {{layer: {value}}}}}}}}}".encode(),
        )


NAMES = (
    *("", ".", "..", "/", "//", "\\", "../x", "..\\x", "a/../../x", "/etc/passwd", "C:\\x", "a:b"),
    *("nul\0", "\ud800", "\udc80", ESCAPES, "x" * 300, "x/" * 3_000, "é" * 200, "a\nb", "a\rb"),
    *("~", "~root", "%2e%2e", "%00", "CON", "NUL.json", "x.", "x ", " x", "-rf", '"', "'", "$(x)"),
    *("{}", "{a|b}", "%year%", "*", "?", "[x]", "<x>", "|", "a//b", "./x", "x/.", "pipe", "folder"),
)
"""Names of files that no file system, shell, header or page should be trusted with."""
