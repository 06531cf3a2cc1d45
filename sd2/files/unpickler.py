"""Reads a pickle as data: interprets its operations and has no way to call anything.

Python's own unpickler imports what the file names and calls it. This one never imports. A name is
looked up in the tables below: those that make up tensors become references, those that trainers
are known to leave in checkpoints become an ``OpaqueObject``, and any other name is refused.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UnsafeFileError
from .limits import MAX_DIMENSIONS, MAX_OPERATIONS, MAX_STATE_ITEMS
from .tensor_storage import DTYPE_NAMES


class DamagedPickleError(Exception):
    """The bytes are not a valid pickle, or exceed the bounds."""


@dataclass(frozen=True)
class OpaqueObject:
    """An object of the file that was neither imported nor run; only its name is kept."""

    name: str


@dataclass(frozen=True)
class StorageRef:
    """A tensor's memory: ``numel`` elements, ``offset`` elements into the storage ``key``.

    ``dtype`` is None for untyped storages, whose size is in bytes.
    """

    key: str
    dtype: str | None
    numel: int
    offset: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A tensor that is not read yet, in its storage. ``offset`` and ``stride`` in elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class ModuleState(dict[str, object]):
    """The parameters and buffers of a pickled module of torch, and those of its modules."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        """Of its class."""


@dataclass(frozen=True)
class _Name:
    """A global the file mentions, as text."""

    name: str


class _Mark:
    pass


_MARK = _Mark()

_STORAGES: dict[str, str | None] = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64",
    "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
    "ComplexFloat": "C64", "ComplexDouble": "C128", "Untyped": None,
}  # fmt: skip
_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")

# What trainers save with the weights. Only names: nothing of these packages is ever imported.
_HARMLESS = re.compile(
    "|".join(
        [
            r"torch\.(Size|device|Tensor|FloatTensor|cuda\.FloatTensor)",
            r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2",
            r"torch\.(optim|nn|amp|cuda\.amp|ao\.nn)\.[\w.]+",
            r"collections\.(OrderedDict|defaultdict|Counter|deque)",
            r"builtins\.(set|frozenset|dict|list|tuple|int|long|float|complex|bool|str|unicode"
            r"|bytes|bytearray|object|slice|range|xrange)",
            r"numpy\._?core\.multiarray\.(scalar|_reconstruct)",
            r"numpy\.(ndarray|dtype|dtypes\.\w+|random\.(_pickle|mtrand)\.\w+)",
            r"numpy\.(float|int|uint|bool|str|bytes|complex)\w*",
            r"_codecs\.encode|copyreg\._reconstructor",
            r"argparse\.Namespace|types\.SimpleNamespace|typing\.Any",
            r"datetime\.(datetime|date|timedelta)|pathlib\.(Pure)?(Posix|Windows)?Path",
            r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|omegaconf|antlr4"
            r"|transformers|diffusers|accelerate|open_clip|peft|ldm|sgm)\.[\w.]+",
        ]
    )
)
_PLAIN_NAME = re.compile(r"\w+|[A-Z]\w*(\.[A-Z]\w*)+")
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names


class SafeUnpickler:
    """Reads one pickle of *data* from *position*; ``position`` is then the first byte after it."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.position = position
        self.opaque_names: dict[str, None] = {}
        """Globals of opaque objects so far, in order."""
        self.storage_dtypes: dict[str, str] = {}
        """By key, every storage of the pickle; untyped ones are counted in bytes (U8)."""
        self._data = data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._state_items = 0

    def run(self) -> object:
        """The pickled value, with TensorRef and OpaqueObject instead of objects.

        Raises UnsafeFileError for a global that weights do not need, DamagedPickleError for
        anything else.
        """
        try:
            for _ in range(MAX_OPERATIONS):
                operation = self._take(1)
                if operation == b".":
                    return self._pop()
                _OPERATIONS[operation](self)
        except (LookupError, ValueError, TypeError, struct.error, OverflowError) as error:
            what = f"{type(error).__name__}: {error}"
            raise DamagedPickleError(f"at byte {self.position}: {what}") from error
        except (MemoryError, RecursionError) as error:
            raise DamagedPickleError("it needs more memory than weights can need") from error
        raise DamagedPickleError(f"more than {MAX_OPERATIONS:,} operations: not a state dict")

    # Bytes

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise ValueError(f"ends {end - len(self._data)} bytes too early")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("ends in the middle of a line")
        line = self._data[self.position : end]
        self.position = end + 1
        return line

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    # Stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark instead of a value")
        return value

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise ValueError("no mark on the stack")

    def _top(self) -> Any:
        if self._stack[-1] is _MARK:
            raise ValueError("a mark instead of a value")
        return self._stack[-1]

    # Containers: a set is read as a list, since stand-ins for its members may not be hashable

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, OpaqueObject):
            raise ValueError(f"appends to a {type(target).__name__}")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            target.update(_pairs(values))
        elif not isinstance(target, OpaqueObject):
            raise ValueError(f"sets items of a {type(target).__name__}")

    # Globals and what is made of them

    def _global(self, module: str, name: str) -> None:
        full_name = f"{_OLD_MODULES.get(module, module)}.{name}"
        known = (
            _STORAGE_NAME.fullmatch(full_name)
            or full_name.removeprefix("torch.") in DTYPE_NAMES
            # "module.name" may reach any module through another's imports: only classes in classes
            or (_HARMLESS.fullmatch(full_name) and _PLAIN_NAME.fullmatch(name))
        )
        if not known:
            raise UnsafeFileError(
                f"its pickle refers to {full_name[:200]!r}, which model weights do not need. "
                "Nothing of it was run. Do not open this file with programs that trust it; "
                "look for a .safetensors of the same model from a source you know."
            )
        self._push(_Name(full_name))

    def _reduce(self, target: object, arguments: object) -> object:
        if not isinstance(target, _Name):
            return target if isinstance(target, OpaqueObject) else OpaqueObject("?")
        builder = _BUILDERS.get(target.name)
        if target.name.startswith("torch.nn.modules."):
            return ModuleState(target.name)
        if target.name == "copyreg._reconstructor" and isinstance(arguments, tuple) and arguments:
            return self._reduce(arguments[0], ())  # protocols 0 and 1
        if builder is not None and isinstance(arguments, tuple):
            built = builder(self, arguments)
            if built is not None:
                return built
        self.opaque_names[target.name] = None
        return OpaqueObject(target.name)

    def _build(self) -> None:
        # The state of an object. But for modules, ours have none: what an OrderedDict or a
        # parameter carries here (``_metadata``, hooks) is not weights.
        state, target = self._pop(), self._top()
        if isinstance(target, ModuleState) and isinstance(state, dict):
            for part in ("_parameters", "_buffers", "_modules"):
                inner = state.get(part)
                if isinstance(inner, dict):
                    self._state_items += len(inner)
                    if self._state_items > MAX_STATE_ITEMS:
                        raise ValueError(f"states of more than {MAX_STATE_ITEMS:,} parameters")
                    target.update(inner)

    def _persistent(self, reference: object) -> None:
        """torch's persistent ids: ("storage", type, key, location, numel[, view])."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            self._push(OpaqueObject("persistent object"))
            return
        _, kind, key, _, numel, *rest = reference
        match = _STORAGE_NAME.fullmatch(kind.name) if isinstance(kind, _Name) else None
        if match is None or match[1] not in _STORAGES or not isinstance(key, str | int):
            raise ValueError("a storage of unknown type")
        offset = 0
        if rest and rest[0] is not None:  # legacy: a view of another storage
            _, offset, numel = rest[0]
        if not _is_size(numel) or not _is_size(offset):
            raise ValueError("a storage of impossible size")
        dtype = _STORAGES[match[1]]
        self.storage_dtypes[str(key)] = dtype or "U8"
        self._push(StorageRef(str(key), dtype, numel, offset))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    # State dicts have text keys. Other keys (optimizer states have numbers) become unique objects:
    # tuples of tuples, or numbers that collide, could take for ever to hash.
    return [
        (key if isinstance(key, str) else _Mark(), value)
        for key, value in zip(values[::2], values[1::2], strict=True)
    ]


def _build_tensor(_unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> TensorRef | None:
    """_rebuild_tensor(storage, offset, size, stride), _v2(…, grad, hooks), _v3(…, dtype)."""
    storage, offset, shape, stride, *rest = arguments
    if not isinstance(storage, StorageRef):
        return None
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], _Name):
        dtype = DTYPE_NAMES.get(rest[2].name.removeprefix("torch."))
    if not isinstance(shape, tuple) or not isinstance(stride, tuple):
        return None
    if dtype is None or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        return None
    if not all(map(_is_size, (offset, *shape, *stride))):
        return None
    return TensorRef(storage, dtype, offset, shape, stride)


def _first_argument(_unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> object:
    return arguments[0] if arguments and isinstance(arguments[0], TensorRef) else None


def _build_dict(_unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> dict[Any, Any] | None:
    # Items follow as operations of their own; arguments are what other dict subclasses take.
    return {} if not arguments else None


def _build_list(_unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> list[Any] | None:
    # The list itself, not a copy: copies of copies would fill the memory.
    return arguments[0] if arguments and isinstance(arguments[0], list) else None


def _build_size(_unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return arguments[0] if arguments and isinstance(arguments[0], tuple) else None


def _build_subclass(unpickler: SafeUnpickler, arguments: tuple[Any, ...]) -> object:
    """_rebuild_from_type_v2(function, type, arguments, state)."""
    if len(arguments) == 4 and isinstance(arguments[0], _Name) and arguments[0].name in _BUILDERS:
        return unpickler._reduce(arguments[0], arguments[2])
    return None


_BUILDERS: dict[str, Callable[[SafeUnpickler, tuple[Any, ...]], object]] = {
    "torch._utils._rebuild_tensor": _build_tensor,
    "torch._utils._rebuild_tensor_v2": _build_tensor,
    "torch._utils._rebuild_tensor_v3": _build_tensor,
    "torch._utils._rebuild_parameter": _first_argument,
    "torch._utils._rebuild_parameter_with_state": _first_argument,
    "torch.nn.parameter.Parameter": _first_argument,
    "torch.Size": _build_size,
    "collections.OrderedDict": _build_dict,
    "collections.defaultdict": lambda _unpickler, _arguments: {},
    "builtins.dict": _build_dict,
    "builtins.set": _build_list,
}
_BUILDERS["torch._tensor._rebuild_from_type_v2"] = _build_subclass


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _quoted(unpickler: SafeUnpickler) -> str:
    line = unpickler._line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    decoded: bytes = codecs.escape_decode(line[1:-1])[0]
    return decoded.decode("latin-1")


def _integer(unpickler: SafeUnpickler) -> int | bool:
    line = unpickler._line()
    return line == b"01" if line in (b"00", b"01") else int(line)  # 00 and 01 are the booleans


def _stack_global(unpickler: SafeUnpickler) -> None:
    name, module = unpickler._pop(), unpickler._pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a global whose name is not text")
    unpickler._global(module, name)


def _text_global(unpickler: SafeUnpickler) -> None:
    module = _text(unpickler._line())
    unpickler._global(module, _text(unpickler._line()))


def _instance(unpickler: SafeUnpickler) -> None:
    arguments = unpickler._pop_to_mark()
    _text_global(unpickler)
    unpickler._push(unpickler._reduce(unpickler._pop(), tuple(arguments)))


def _object(unpickler: SafeUnpickler) -> None:
    target, *arguments = unpickler._pop_to_mark()
    unpickler._push(unpickler._reduce(target, tuple(arguments)))


def _call(unpickler: SafeUnpickler) -> None:
    arguments, target = unpickler._pop(), unpickler._pop()
    unpickler._push(unpickler._reduce(target, arguments))


def _call_with_keywords(unpickler: SafeUnpickler) -> None:
    unpickler._pop()
    _call(unpickler)


def _tuple_of(count: int) -> Callable[[SafeUnpickler], None]:
    def build(unpickler: SafeUnpickler) -> None:
        values = [unpickler._pop() for _ in range(count)]
        unpickler._push(tuple(reversed(values)))

    return build


def _set_one(unpickler: SafeUnpickler) -> None:
    value, key = unpickler._pop(), unpickler._pop()
    unpickler._set_items([key, value])


def _put(unpickler: SafeUnpickler, index: int) -> None:
    if not 0 <= index < 1 << 32:
        raise ValueError("an impossible memo number")
    unpickler._memo[index] = unpickler._top()


def _refuse(unpickler: SafeUnpickler) -> None:
    raise ValueError("it uses extension codes or out-of-band buffers, which no checkpoint does")


_OPERATIONS: dict[bytes, Callable[[SafeUnpickler], object]] = {
    # Frame and end
    b"\x80": lambda m: m._take(1),
    b"\x95": lambda m: m._take(8),
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._stack.pop(),
    b"1": lambda m: m._pop_to_mark(),
    b"2": lambda m: m._push(m._top()),
    # Constants
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"I": lambda m: m._push(_integer(m)),
    b"L": lambda m: m._push(int(m._line().rstrip(b"L"))),
    b"J": lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    b"K": lambda m: m._push(m._number(1)),
    b"M": lambda m: m._push(m._number(2)),
    b"\x8a": lambda m: m._push(int.from_bytes(m._take(m._number(1)), "little", signed=True)),
    b"\x8b": lambda m: m._push(int.from_bytes(m._take(m._number(4)), "little", signed=True)),
    b"F": lambda m: m._push(float(m._line())),
    b"G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    # Text and bytes
    b"S": lambda m: m._push(_quoted(m)),
    b"T": lambda m: m._push(m._take(m._number(4)).decode("latin-1")),
    b"U": lambda m: m._push(m._take(m._number(1)).decode("latin-1")),
    b"V": lambda m: m._push(str(m._line(), "raw-unicode-escape")),
    b"X": lambda m: m._push(_text(m._take(m._number(4)))),
    b"\x8c": lambda m: m._push(_text(m._take(m._number(1)))),
    b"\x8d": lambda m: m._push(_text(m._take(m._number(8)))),
    b"B": lambda m: m._push(m._take(m._number(4))),
    b"C": lambda m: m._push(m._take(m._number(1))),
    b"\x8e": lambda m: m._push(m._take(m._number(8))),
    b"\x96": lambda m: m._push(m._take(m._number(8))),
    # Containers
    b"]": lambda m: m._push([]),
    b"l": lambda m: m._push(m._pop_to_mark()),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b")": lambda m: m._push(()),
    b"t": lambda m: m._push(tuple(m._pop_to_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"}": lambda m: m._push({}),
    b"d": lambda m: m._push(dict(_pairs(m._pop_to_mark()))),
    b"s": _set_one,
    b"u": lambda m: m._set_items(m._pop_to_mark()),
    b"\x8f": lambda m: m._push([]),
    b"\x90": lambda m: m._append(m._pop_to_mark()),
    b"\x91": lambda m: m._push(m._pop_to_mark()),
    # Memo
    b"p": lambda m: _put(m, int(m._line())),
    b"q": lambda m: _put(m, m._number(1)),
    b"r": lambda m: _put(m, m._number(4)),
    b"\x94": lambda m: _put(m, len(m._memo)),
    b"g": lambda m: m._push(m._memo[int(m._line())]),
    b"h": lambda m: m._push(m._memo[m._number(1)]),
    b"j": lambda m: m._push(m._memo[m._number(4)]),
    # Objects
    b"c": _text_global,
    b"\x93": _stack_global,
    b"i": _instance,
    b"o": _object,
    b"\x81": _call,
    b"\x92": _call_with_keywords,
    b"R": _call,
    b"b": lambda m: m._build(),
    b"P": lambda m: m._persistent(m._line()),
    b"Q": lambda m: m._persistent(m._pop()),
    # Never in a checkpoint
    b"\x82": _refuse,
    b"\x83": _refuse,
    b"\x84": _refuse,
    b"\x97": _refuse,
    b"\x98": _refuse,
}
