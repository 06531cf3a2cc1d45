"""The kinds of files that cost most for their size, each made for a given size in bytes."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hostile_documents import _chunk as png_chunk

LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


@dataclass(frozen=True)
class Kind:
    """A file of about the given size, and what reads it."""

    parser: str
    name: str
    make: Callable[[int], bytes]
    reader: str


def repeated(start: bytes, part: bytes, end: bytes, size: int) -> bytes:
    """*part* as often as makes *size* bytes in all."""
    return start + part * max((size - len(start) - len(end)) // len(part), 1) + end


def numbered(start: bytes, part: bytes, end: bytes, size: int) -> bytes:
    """*part*, with its number in place of ``%``, as often as makes *size* bytes in all."""
    parts: list[bytes] = []
    length = len(start) + len(end)
    while length < size or not parts:
        parts.append(part.replace(b"%", b"%d" % len(parts)))
        length += len(parts[-1])
    return start + b"".join(parts) + end


# Safetensors


def header(data: bytes, values: bytes = b"") -> bytes:
    return struct.pack("<Q", len(data)) + data + values


def metadata(key: str, value: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A header whose metadata has a text, which is JSON itself."""

    def make(size: int) -> bytes:
        about = {"__metadata__": {key: value(size).decode()}}
        cond = {"dtype": "F32", "shape": [1, 1, 8], "data_offsets": [0, 32]}
        return header(json.dumps({**about, "conditioning": cond}).encode(), b"\0" * 32)

    return make


def tensors(entry: bytes, data: float = 0.0) -> Callable[[int], bytes]:
    """Numbered entries of a header, and a share of the size as data that they may all be."""

    def make(size: int) -> bytes:
        values = int(size * data) // 32 * 32
        one = entry.replace(b"$", b"%d" % values).replace(b"#", b"%d" % (values // 32))
        text = numbered(b"{", one + b",", b'"z":null}', size - values)
        return header(text.replace(b',"z":null}', b"}"), b"\0" * values)

    return make


def long_name(part: bytes) -> Callable[[int], bytes]:
    entry = b'":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    return lambda size: header(repeated(b'{"', part, entry, size), b"\0" * 16)


LORA = b"lora_te_text_model_encoder_layers_0_self_attn_q_proj"
ENTRY = b'{"dtype":"F32","shape":[#,8],"data_offsets":[0,$]}'

SAFETENSORS = {
    "a prompt of lists": metadata("prompt", lambda n: repeated(b"[", b"[],", b"[]]", n)),
    "a workflow of nodes": metadata(
        "workflow", lambda n: numbered(b'{"nodes":[', b'{"id":%,"type":"x"},', b"{}]}", n)
    ),
    "empty lists in metadata": lambda n: header(
        repeated(b'{"__metadata__":{"a":[', b"[],", b"[]]}}", n)
    ),
    "empty objects in metadata": lambda n: header(
        repeated(b'{"__metadata__":{"a":[', b"{},", b"{}]}}", n)
    ),
    "numbers in metadata": lambda n: header(
        repeated(b'{"__metadata__":{"a":[', b"1000,", b"1]}}", n)
    ),
    "many texts in metadata": lambda n: header(
        numbered(b'{"__metadata__":{', b'"%":"",', b'"z":""}}', n)
    ),
    "many tensors": tensors(b'"%":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'),
    "many tensors of the same data": tensors(b'"%":' + ENTRY, 0.5),
    "shapes of 64 dimensions": tensors(
        b'"%":{"dtype":"F32","shape":[' + b"1," * 63 + b'0],"data_offsets":[0,0]}'
    ),
    "unknown types": tensors(b'"%":{"dtype":"%","shape":[],"data_offsets":[0,0]}'),
    "a long name": long_name(b"x"),
    "a long name with dots": long_name(b"attn2.to_k."),
    "a long name with underscores": long_name(b"attn2_processor_to_v_"),
    "a long name with layers": long_name(b"text_model.encoder.layers.0."),
    "a long name of a LoRA": long_name(LORA + b"."),
    "a long name with resblocks": long_name(b"transformer.resblocks.0."),
    "many towers": tensors(
        b'"%.text_model.encoder.layers.0.mlp.fc1.weight":'
        b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    ),
    "many embeddings of tokens": tensors(
        b'"%.text_model.embeddings.token_embedding.weight":'
        b'{"dtype":"F32","shape":[16,8],"data_offsets":[0,0]}'
    ),
}
CONDITIONINGS = {
    "options of empty lists": metadata(
        "conditioning_options", lambda n: repeated(b'{"a":[', b"[],", b"[]]}", n)
    ),
    "a record of empty lists": metadata(
        "sd2_clip",
        lambda n: repeated(
            b'{"format":"sd2_clip.conditioning/1","entries":[{"cond":"conditioning",'
            b'"options":{"a":[',
            b"[],",
            b"[]]}}]}",
            n,
        ),
    ),
    "a record of tuples": metadata(
        "sd2_clip",
        lambda n: repeated(
            b'{"format":"sd2_clip.conditioning/1","entries":[{"cond":"conditioning",'
            b'"options":{"a":[',
            b'{"$tuple":[]},',
            b"[]]}}]}",
            n,
        ),
    ),
    "the same tensor many times": metadata(
        "sd2_clip",
        lambda n: repeated(
            b'{"format":"sd2_clip.conditioning/1","entries":[',
            b'{"cond":"conditioning","options":{}},',
            b'{"cond":"conditioning","options":{}}]}',
            n,
        ),
    ),
    "many tensors of the same data": tensors(b'"conditioning.%":' + ENTRY, 0.5),
    "a deep record": metadata(
        "sd2_clip",
        lambda n: (
            b'{"format":"sd2_clip.conditioning/1","entries":[{"cond":"conditioning",'
            b'"options":{"a":' + b"[" * 900 + b"]" * 900 + b"}}]}"
        ),
    ),
}
LORAS = {
    "modules of the same data": tensors(b'"' + LORA + b'_%.lora_up.weight":' + ENTRY, 0.5),
    "diffs of the same data": tensors(b'"' + LORA + b'.%.diff":' + ENTRY, 0.5),
    "one module under many names": tensors(
        b'"' + LORA + b'.lora_up%.weight":{"dtype":"F32","shape":[0,8],"data_offsets":[0,0]}'
    ),
    "layers that are not there": tensors(
        b'"lora_te_text_model_encoder_layers_%_mlp_fc1.lora_up.weight":'
        b'{"dtype":"F32","shape":[0,8],"data_offsets":[0,0]}'
    ),
    "claims": metadata("ss_base_model_version", lambda n: b"x" * n),
    "patterns of alpha": metadata(
        "lora_adapter_metadata",
        lambda n: numbered(
            b'{"text_encoder.lora_alpha":1,"text_encoder.alpha_pattern":{', b'"%":1,', b'"z":1}}', n
        ),
    ),
}

# Pickles


def zipped(make: Callable[[int], bytes], *, compressed: bool = False) -> Callable[[int], bytes]:
    """The pickle in a zip file of torch."""

    def made(size: int) -> bytes:
        file = io.BytesIO()
        how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", how) as archive:
            archive.writestr("archive/data.pkl", make(size))
            archive.writestr("archive/data/0", b"\0" * 64)
        return file.getvalue()

    return made


def old(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """The pickle in an old file of torch."""
    before = LEGACY_START + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    return lambda size: before + make(size) + b"\x80\x02]."


def pickle(start: bytes, part: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: repeated(start, part, end, size)


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x10tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(h\0K\0K\2K\x08\x86K\x08K\1\x86\x89}tR"


def module_state(size: int) -> bytes:
    """A module that is given the same large state again and again."""
    half = size // 2
    state = numbered(b"}X\x0b\0\0\0_parameters}(", b"X\6\0\0\0%", b"", 60)[:0]
    names = b"".join(b"X\6\0\0\0%06dN" % number for number in range(half // 12))
    state = b"}X\x0b\0\0\0_parameters}(" + names + b"usq\0"
    module = b"ctorch.nn.modules.linear\nLinear\n)R"
    return b"\x80\x02" + state + b"0" + module + b"h\0b" * (half // 3) + b"."


PICKLES = {
    "lists": pickle(b"\x80\x02(", b"]", b"l."),
    "dicts": pickle(b"\x80\x02(", b"}", b"l."),
    "empty keys": pickle(b"\x80\x02}(", b"NN", b"u."),
    "keys": lambda n: (
        b"\x80\x02}(" + b"".join(b"X\7\0\0\0%07dN" % i for i in range(n // 13)) + b"u."
    ),
    "marks": pickle(b"\x80\x02", b"(", b"."),
    "marks that are popped": pickle(b"\x80\x02", b"(1", b"N."),
    "tuples in tuples": pickle(b"\x80\x02N", b"\x85", b"."),
    "lists in lists": pickle(b"\x80\x02]", b"]a", b"."),
    "one list in itself": pickle(b"\x80\x02]q\0", b"h\0a", b"."),
    "one list in lists": pickle(b"\x80\x02]q\0", b"]q\1(h\0h\0h\0h\0h\0eq\0", b"."),
    "memo": pickle(b"\x80\x04", b"N\x94", b"."),
    "a long text": lambda n: b"\x80\x02X" + struct.pack("<I", n) + b"x" * n + b".",
    "a long text beyond 16 bits": lambda n: (
        b"\x80\x02X" + struct.pack("<I", n // 4 * 4) + "😀".encode() * (n // 4) + b"."
    ),
    "a long number": lambda n: b"\x80\x02\x8b" + struct.pack("<i", n) + b"\x7f" * n + b".",
    "a long line of digits": pickle(b"\x80\x02I", b"9", b"\n."),
    "a long float": pickle(b"\x80\x02F", b"9", b"\n."),
    "numbers": pickle(b"\x80\x02(", b"J\xff\xff\xff\x7f", b"l."),
    "escapes": pickle(b"\x80\x02V", b"\\u00e9", b"\n."),
    "quoted": pickle(b"\x80\x02S'", b"\\x41", b"'\n."),
    "opaque objects": lambda n: (
        b"\x80\x02("
        + b"".join(b"ctorch.nn.modules.a\nB%d\n)R0" % i for i in range(n // 32))
        + b"l."
    ),
    "names": lambda n: (
        b"\x80\x02(" + b"".join(b"cnumpy\nfloat%d\n)R" % i for i in range(n // 20)) + b"l."
    ),
    "a long name": pickle(b"\x80\x02cldm.", b"a.", b"\nX\n."),
    "a long name in capitals": pickle(b"\x80\x02cldm\n", b"A.", b"!\n."),
    "the state of a module": module_state,
    "tensors": lambda n: (
        b"\x80\x02"
        + STORAGE
        + b"q\0}("
        + b"".join(b"X\6\0\0\0%06d" % i + TENSOR for i in range(n // 70))
        + b"u."
    ),
    "lists of tensors": lambda n: b"\x80\x02" + STORAGE + b"q\0](" + TENSOR * (n // 60) + b"e.",
    "one tensor many times": lambda n: (
        b"\x80\x02"
        + STORAGE
        + b"q\0"
        + TENSOR
        + b"q\1}("
        + b"".join(b"X\6\0\0\0%06dh\1" % i for i in range(n // 13))
        + b"u."
    ),
    "views of views": pickle(
        b"\x80\x02" + STORAGE + b"q\0" + TENSOR + b"q\1",
        b"ctorch._utils\n_rebuild_parameter\n(h\1\x89}tR",
        b".",
    ),
}

# Zip files


def zip_of(members: Iterable[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def directory_entries(size: int) -> bytes:
    """A directory of entries that all are one member."""
    member = zip_of([("a", b"")])
    start = member.index(b"PK\x01\x02")
    entry = member[start : member.index(b"PK\x05\x06")]
    many = entry * max((size - start) // len(entry), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(many), start, 0)
    return member[:start] + many + end


def compressed_storages(size: int) -> bytes:
    """A tensor in each of many compressed members."""
    count = max(size // 330, 1)
    parts = [b"\x80\x02}("]
    for number in range(count):
        key = b"%06d" % number
        storage = STORAGE.replace(b"X\1\0\0\x000", b"X\6\0\0\0" + key)
        parts += [b"X\6\0\0\0" + key, TENSOR.replace(b"h\0", storage)]
    members = [("archive/data.pkl", b"".join(parts) + b"u.")]
    members += [(f"archive/data/{number:06}", b"\0" * 64) for number in range(count)]
    return zip_of(members, zipfile.ZIP_DEFLATED)


ZIPS = {
    "many members": lambda n: zip_of((f"archive/data/{i}", b"") for i in range(n // 110)),
    "entries of one member": directory_entries,
    "compressed storages": compressed_storages,
    "a bomb for a pickle": lambda n: zip_of(
        [("archive/data.pkl", b"\0" * (n * 1_000))], zipfile.ZIP_DEFLATED
    ),
    "a bomb of lists": zipped(
        lambda n: repeated(b"\x80\x02(", b"]", b"l.", 800_000), compressed=True
    ),
    "a comment": lambda n: zip_of([("archive/data.pkl", b"N.")])[:-2] + b"\xff\xff" + b"PK\5\6" * n,
    "headers of members": pickle(b"PK\3\4", b"PK\5\6", b""),
}

# Pictures


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_text(keyword: bytes, make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda size: png(png_chunk(b"tEXt", keyword + b"\0" + make(size)))


def png_bomb(keyword: bytes, part: bytes, end: bytes = b"") -> Callable[[int], bytes]:
    """A text that is a thousand times larger than the file."""
    return lambda size: png(
        png_chunk(
            b"zTXt",
            keyword
            + b"\0\0"
            + zlib.compress(repeated(b"[", part, end, min(size * 1_000, 31 << 20))),
        )
    )


def embedding_text(part: bytes, end: bytes) -> Callable[[int], bytes]:
    """A textual inversion in a picture: JSON in base64, compressed."""
    import base64

    def make(size: int) -> bytes:
        text = base64.b64encode(repeated(b"[", part, end, min(size * 100, 22 << 20)))
        return png(png_chunk(b"zTXt", b"sd-ti-embedding\0\0" + zlib.compress(text)))

    return make


PNGS = {
    "chunks": lambda n: png(repeated(b"", png_chunk(b"IDAT", b""), b"", n)),
    "texts": lambda n: png(repeated(b"", png_chunk(b"tEXt", b"prompt\0{}"), b"", n)),
    "other texts": lambda n: png(repeated(b"", png_chunk(b"tEXt", b"x\0{}"), b"", n)),
    "a text of lists": png_text(b"prompt", pickle(b"[", b"[],", b"[]]")),
    "a bomb": png_bomb(b"prompt", b" "),
    "a bomb of lists": png_bomb(b"workflow", b"[],", b"[]]"),
    "a bomb beyond 16 bits": png_bomb(b"workflow", '"😀",'.encode(), b"1]"),
    "two bombs": lambda n: png(
        *(
            png_chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(b" " * (15 << 20)))
            for keyword in (b"prompt", b"workflow")
        )
    ),
}
EMBEDDINGS = {
    "a picture of lists": embedding_text(b"[],", b"[]]"),
    "a picture of objects": embedding_text(b"{},", b"{}]"),
    "a picture of tensors": embedding_text(b'{"TORCHTENSOR":[]},', b"{}]"),
    "a picture of numbers": embedding_text(b"1,", b"1]"),
    "a deep picture": embedding_text(b"[", b""),
    "many tensors of the same data": tensors(b'"%":' + ENTRY, 0.5),
}

# Workflows


def prompt(node: bytes) -> Callable[[int], bytes]:
    return lambda size: numbered(b"{", b'"%":' + node + b",", b'"z":{"class_type":"x"}}', size)


def chain(size: int) -> bytes:
    """Nodes that each read the one before, and as many outputs of the last."""
    count = size // 150
    nodes: dict[str, Any] = {
        str(i): {"class_type": "LoadSD2LoRA", "inputs": {"clip": [str(i - 1), 0]}}
        for i in range(count)
    }
    nodes |= {
        f"o{i}": {"class_type": "SaveSD2Conditioning", "inputs": {"conditioning": [str(i), 0]}}
        for i in range(count)
    }
    return json.dumps(nodes).encode()


def failing_outputs(size: int) -> bytes:
    """Outputs that all depend on the same chain of failing nodes."""
    count = size // 160
    nodes: dict[str, Any] = {
        str(i): {"class_type": "EncodeSD2Text", "inputs": {"clip": [str(i - 1), 0]}}
        for i in range(count)
    }
    last = [str(count - 1), 0]
    nodes |= {
        f"o{i}": {"class_type": "SaveSD2Conditioning", "inputs": {"conditioning": last}}
        for i in range(count)
    }
    return json.dumps(nodes).encode()


def editor(nodes: list[dict[str, Any]], links: list[Any], **more: Any) -> bytes:
    return json.dumps({"version": 0.4, "nodes": nodes, "links": links, **more}).encode()


def reroutes(size: int) -> bytes:
    """A chain of reroutes, and inputs of many types that read its end."""
    count = size // 300
    nodes: list[dict[str, Any]] = [
        {"id": i, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": i}]}
        for i in range(1, count)
    ]
    inputs = [{"name": f"i{i}", "type": f"T{i}", "link": count} for i in range(count)]
    nodes.append({"id": count, "type": "EncodeSD2Text", "inputs": inputs})
    return editor(nodes, [[i, i - 1, 0, i, 0, "*"] for i in range(1, count + 1)])


def bypassed(size: int) -> bytes:
    """A bypassed node with many inputs and outputs, all of which are read."""
    count = size // 280
    inputs = [{"name": f"i{i}", "type": f"T{i}", "link": None} for i in range(count)]
    outputs = [{"name": f"o{i}", "type": "X"} for i in range(count)]
    read = [{"name": f"r{i}", "type": "X", "link": i} for i in range(count)]
    nodes = [
        {"id": 1, "type": "x", "mode": 4, "inputs": inputs, "outputs": outputs},
        {"id": 2, "type": "EncodeSD2Text", "inputs": read},
    ]
    return editor(nodes, [[i, 1, i, 2, i, "X"] for i in range(count)])


def senders(size: int) -> bytes:
    """Nodes that send each a type of their own to everywhere."""
    count = size // 260
    nodes: list[dict[str, Any]] = [
        {
            "id": i,
            "type": "Anything Everywhere",
            "inputs": [{"name": "a", "type": f"T{i}", "link": i}],
        }
        for i in range(count)
    ]
    nodes += [
        {"id": i + count, "type": "x", "inputs": [{"name": "b", "type": "Y"}]} for i in range(count)
    ]
    return editor(nodes, [[i, count + i, 0, i, 0, "*"] for i in range(count)])


def sent_links(size: int) -> bytes:
    """Recorded links into the many inputs of one node."""
    count = size // 160
    inputs = [{"name": f"i{i}", "type": "X", "link": None} for i in range(count)]
    nodes = [{"id": 1, "type": "x"}, {"id": 2, "type": "EncodeSD2Text", "inputs": inputs}]
    sent = [
        {"upstream": 1, "upstream_slot": 0, "downstream": 2, "downstream_slot": i}
        for i in range(count)
    ]
    return editor(nodes, [], extra={"ue_links": sent})


def subgraph_inputs(size: int) -> bytes:
    """A subgraph with many inputs, each a widget that its instance shows."""
    count = size // 400
    inner = [
        {"name": f"i{i}", "type": "INT", "link": i, "widget": {"name": "i"}} for i in range(count)
    ]
    outer = [{"name": f"i{i}", "type": "INT", "link": None} for i in range(count)]
    graph = {
        "id": "s",
        "nodes": [{"id": 1, "type": "y", "inputs": inner}],
        "links": [[i, -10, i, 1, i, "INT"] for i in range(count)],
        "inputs": [{"name": f"i{i}", "type": "INT"} for i in range(count)],
        "outputs": [],
    }
    nodes = [{"id": 1, "type": "s", "inputs": outer, "widgets_values": list(range(count))}]
    return editor(nodes, [], definitions={"subgraphs": [graph]})


def instances(size: int) -> bytes:
    """Many instances of one subgraph, in a subgraph."""
    count = min(size // 40, 20_000)
    graph = {"id": "s", "nodes": [{"id": 1, "type": "y"}], "links": []}
    return editor(
        [{"id": i, "type": "s"} for i in range(count)], [], definitions={"subgraphs": [graph]}
    )


def nested(size: int) -> bytes:
    """Subgraphs that each hold the next one."""
    count = size // 80
    graphs = [
        {"id": f"s{i}", "nodes": [{"id": 1, "type": f"s{i + 1}"}], "links": []}
        for i in range(count)
    ]
    return editor([{"id": 1, "type": "s0"}], [], definitions={"subgraphs": graphs})


WORKFLOWS = {
    "lists": pickle(b"[", b"[],", b"[]]"),
    "objects": pickle(b"[", b"{},", b"{}]"),
    "keys": lambda n: numbered(b"{", b'"%":0,', b'"z":0}', n),
    "numbers": pickle(b"[", b"10000,", b"1]"),
    "floats": pickle(b"[", b"1e9,", b"1]"),
    "texts": lambda n: numbered(b"[", b'"%",', b'""]', n),
    "a long text": pickle(b'"', b"x", b'"'),
    "text in text": lambda n: json.dumps(json.dumps(["x"] * (n // 9))).encode(),
    "beyond 16 bits": pickle(b'["', "😀".encode(), b'"]'),
    "deep": pickle(b"", b"[", b""),
    "nodes": prompt(b'{"class_type":"EncodeSD2Text"}'),
    "unknown nodes": prompt(b'{"class_type":"%"}'),
    "nearly known nodes": prompt(b'{"class_type":"EncodeSD2Tex%"}'),
    "outputs": prompt(b'{"class_type":"SaveSD2Conditioning","inputs":{"conditioning":["0",0]}}'),
    "a long class": pickle(b'{"1":{"class_type":"', b"EncodeSD2Text", b'"}}'),
    "many inputs": lambda n: numbered(
        b'{"1":{"class_type":"SaveSD2Conditioning","inputs":{', b'"%":["1",0],', b'"z":1}}}', n
    ),
    "a chain": chain,
    "outputs that fail": failing_outputs,
    "the same title": prompt(b'{"class_type":"x","_meta":{"title":"A"}}'),
    "history": prompt(b'{"prompt":[]}'),
    "choices": lambda n: json.dumps(
        {"1": {"class_type": "EncodeSD2Text", "inputs": {"text": "{a|" * (n // 3)}}}
    ).encode(),
    "reroutes": reroutes,
    "a bypassed node": bypassed,
    "senders": senders,
    "sent links": sent_links,
    "inputs of a subgraph": subgraph_inputs,
    "instances": instances,
    "nested subgraphs": nested,
    "notes": lambda n: editor(
        [{"id": i, "type": "Note", "widgets_values": ["{a|b}"]} for i in range(n // 60)], []
    ),
}

# YAML

COLLIDING = 2**61 - 1  # Python's hash of its multiples is 0

YAMLS = {
    "lists": pickle(b"a: [", b"[],", b"[]]"),
    "items": pickle(b"", b"- \n", b""),
    "keys": lambda n: numbered(b"", b"k%:\n", b"", n),
    "keys with one hash": lambda n: b"".join(
        b"%d: 0\n" % (i * COLLIDING) for i in range(min(n, 250_000) // 26)
    ),
    "a long text": pickle(b"a: ", b"x", b""),
    "words": pickle(b"a: ", b"x ", b""),
    "folded lines": pickle(b"a: >\n", b" x\n", b""),
    "quoted": pickle(b'a: "', b"\\n", b'"'),
    "quoted lines": pickle(b'a: "', b"x\n\n ", b'"'),
    "a comment": pickle(b"#", b"x", b"\na: 1"),
    "comments": pickle(b"", b"#\n", b"a: 1"),
    "blanks": pickle(b"a: 1", b" ", b""),
    "digits": pickle(b"a: ", b"1", b""),
    "base 60": pickle(b"a: 1", b":59", b""),
    "base 60 float": pickle(b"a: 1", b":59", b".5"),
    "underscores": pickle(b"a: 1", b"_", b"x"),
    "deep": pickle(b"a: ", b"[", b""),
    "deep blocks": lambda n: b"".join(b" " * i + b"a:\n" for i in range(int((n * 2) ** 0.5))),
    "deep dashes": pickle(b"", b"- ", b""),
    "anchors": lambda n: numbered(b"", b"- &a% x\n", b"", n),
    "aliases": pickle(b"a: &a [x]\nb:\n", b"- *a\n", b""),
    "merges": pickle(b"a: &a {x: 1}\nb:\n", b"  <<: *a\n", b""),
    "tags": pickle(b"", b"- !!set {x}\n", b""),
    "documents": pickle(b"", b"---\n", b""),
    "question marks": pickle(b"", b"? ", b""),
    "colons": pickle(b"", b":", b""),
}

# Prompts

PROMPTS = {
    name: pickle(start, part, end)
    for name, (start, part, end) in {
        "a word": (b"", b"x", b""),
        "words": (b"", b"cat ", b""),
        "commas": (b"", b",", b""),
        "emoji": (b"", "😀".encode(), b""),
        "round brackets": (b"", b"(", b""),
        "pairs of brackets": (b"", b"(a)", b""),
        "closed brackets": (b"", b")", b""),
        "square brackets": (b"", b"[", b""),
        "both brackets": (b"", b"([", b""),
        "weights": (b"", b"(a:1.1)", b""),
        "colons": (b"(", b":", b")"),
        "numbers": (b"(a:", b"1", b")"),
        "nested weights": (b"", b"(a:", b""),
        "AND": (b"", b"a AND ", b"b"),
        "BREAK": (b"", b"a BREAK ", b"b"),
        "bars": (b"[", b"a|", b"b]"),
        "alternatives": (b"", b"[a|b]", b""),
        "edits": (b"", b"[a:b:0.5]", b""),
        "open edits": (b"", b"[a:", b""),
        "networks": (b"", b"<lora:x:1>", b""),
        "open networks": (b"", b"<lora:", b""),
        "empty networks": (b"", b"<lora:>", b""),
        "comments": (b"", b"#\n", b""),
        "block comments": (b"", b"/*", b""),
        "slashes": (b"", b"/", b""),
        "choices": (b"", b"{a|b}", b""),
        "open choices": (b"{", b"a|", b""),
        "backslashes": (b"", b"\\", b""),
        "embeddings": (b"", b"embedding:a ", b""),
        "embedding": (b"embedding:", b"a", b""),
        "embeddings in a word": (b"", b"embedding:", b""),
        "quotes": (b"", b'"', b""),
        "blanks": (b"", b" ", b""),
        "lines": (b"", b"\n", b""),
    }.items()
}

# Captions


def tar_of(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def pax_header() -> bytes:
    """A header that says more of the next one, as pax has them."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 12
    return info.tobuf(tarfile.USTAR_FORMAT) + b"12 path=abc\n".ljust(512, b"\0")


def bomb(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Compressed: of hundreds of times the size."""
    return lambda size: gzip.compress(make(min(size * 400, 64 << 20)), 1, mtime=0)


def null_batches(size: int) -> bytes:
    import pyarrow

    table = pyarrow.table({"caption": pyarrow.nulls(1_000_000_000)})
    file = io.BytesIO()
    with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


CAPTIONS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "lines": (".txt", pickle(b"", b"\n", b"")),
    "a line": (".txt", pickle(b"", b"x", b"")),
    "rows": (".jsonl", pickle(b"", b'""\n', b"")),
    "rows of objects": (".jsonl", pickle(b"", b'{"text":""}\n', b"")),
    "a row of lists": (".jsonl", pickle(b'{"text":"","x":[', b"[],", b"[]]}")),
    "a deep row": (".jsonl", pickle(b"", b"[", b"")),
    "a text": (".json", pickle(b'["', b"x", b'"]')),
    "texts": (".json", pickle(b"[", b'"",', b'""]')),
    "lists": (".json", pickle(b'[{"text":"","x":[', b"[],", b"[]]}]")),
    "blanks": (".json", pickle(b"[", b" ", b"]")),
    "digits": (".json", pickle(b"[", b"1", b"]")),
    "fields": (".csv", pickle(b"caption", b",", b"\n")),
    "a field": (".csv", pickle(b'caption\n"', b"x\n", b'"\n')),
    "quotes": (".csv", pickle(b'caption\n"', b'""', b'"\n')),
    "rows of fields": (".csv", pickle(b"caption\n", b"a\n", b"")),
    "headers": (".tar", lambda n: tar_of(*((f"{i}.txt", b"") for i in range(n // 512)))),
    "a bomb of a header": (
        ".tar.gz",
        bomb(lambda n: tar_of(("x" * n + ".txt", b""))),
    ),
    "a member": (".tar", lambda n: tar_of(("a.txt", b"x" * n))),
    "members of one key": (
        ".tar",
        lambda n: tar_of(*((f"a.{i}.txt", b"") for i in range(n // 512))),
    ),
    "headers of headers": (".tar", lambda n: pax_header() * (n // 1024)),
    "a long name": (".tar", lambda n: tar_of(("x" * n + ".txt", b""))),
    "a bomb of a line": (".txt.gz", bomb(pickle(b"", b"x", b""))),
    "a bomb of a row": (".jsonl.gz", bomb(pickle(b'{"text":"","x":[', b"[],", b"[]]}"))),
    "a bomb of a text": (".json.gz", bomb(pickle(b'["', b"x", b'"]'))),
    "a bomb of a field": (".csv.gz", bomb(pickle(b'caption\n"', b"x\n", b'"\n'))),
    "a bomb of a first line": (".csv.gz", bomb(pickle(b"", b"x", b""))),
    "a bomb of a member": (".tar.gz", bomb(lambda n: tar_of(("a.txt", b"x" * n)))),
    "nulls": (".arrow", null_batches),
}


WORST = {
    ("safetensors", "a long name with dots"),
    ("safetensors", "many tensors of the same data"),
    ("safetensors", "empty lists in metadata"),
    ("conditioning", "a deep record"),
    ("conditioning", "options of empty lists"),
    ("LoRA", "modules of the same data"),
    ("pickle", "the state of a module"),
    ("pickle", "lists"),
    ("zip", "entries of one member"),
    ("zip", "compressed storages"),
    ("PNG", "chunks"),
    ("PNG", "a bomb of lists"),
    ("textual inversion", "a picture of tensors"),
    ("textual inversion", "a picture of lists"),
    ("workflow", "many inputs"),
    ("workflow", "reroutes"),
    ("workflow", "a bypassed node"),
    ("workflow", "senders"),
    ("workflow", "sent links"),
    ("workflow", "outputs that fail"),
    ("workflow", "nested subgraphs"),
    ("YAML", "anchors"),
    ("YAML", "merges"),
    ("ComfyUI prompt", "nested weights"),
    ("A1111 prompt", "AND"),
    ("captions", "a bomb of a row"),
    ("captions", "a bomb of a field"),
    ("captions", "a bomb of a header"),
    ("captions", "headers of headers"),
    ("captions", "nulls"),
}
"""Parser and name of those that are measured in every run of the tests."""


def kinds() -> list[Kind]:
    """All kinds, by parser."""
    found = [
        Kind("safetensors", name, make, reader)
        for name, make in SAFETENSORS.items()
        for reader in ("model.safetensors",)
    ]
    found += [Kind("conditioning", k, v, "model.safetensors") for k, v in CONDITIONINGS.items()]
    found += [Kind("LoRA", k, v, "model.safetensors") for k, v in LORAS.items()]
    found += [Kind("pickle", k, zipped(v), "model.pt") for k, v in PICKLES.items()]
    found += [
        Kind("pickle", f"{k} (old file)", old(PICKLES[k]), "model.pt") for k in ("lists", "keys")
    ]
    found += [Kind("zip", k, v, "model.pt") for k, v in ZIPS.items()]
    found += [Kind("PNG", k, v, "workflow.png") for k, v in PNGS.items()]
    found += [
        Kind("textual inversion", k, v, "embedding.png" if "picture" in k else "model.safetensors")
        for k, v in EMBEDDINGS.items()
    ]
    found += [Kind("workflow", k, v, "workflow.json") for k, v in WORKFLOWS.items()]
    found += [Kind("YAML", k, v, "yaml.yaml") for k, v in YAMLS.items()]
    found += [Kind("ComfyUI prompt", k, v, "comfy.txt") for k, v in PROMPTS.items()]
    found += [Kind("A1111 prompt", k, v, "a1111.txt") for k, v in PROMPTS.items()]
    found += [Kind("captions", k, v, f"captions{ending}") for k, (ending, v) in CAPTIONS.items()]
    return found
