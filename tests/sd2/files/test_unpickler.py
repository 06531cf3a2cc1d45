"""Pickles are read as data: never run, and never at a cost that the file chooses."""

import builtins
import contextlib
import os
import pickle
import pickletools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sd2_clip.sd2.errors import UnreadableFileError, UnsafeFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.files.torch_file import load_pickle
from sd2_clip.sd2.files.unpickler import DamagedPickleError, OpaqueObject, SafeUnpickler
from tensor_files import BOTH_FORMS, with_pickle


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_is_understood(protocol):
    value = {"a": [1, -2, 300, 70000, 2**40, 1.5, True, None], "b": ("t", b"bytes", {"c": {}}),
             "s": "text \N{SNOWMAN} \n '", "long": "x" * 300}  # fmt: skip
    if protocol < 3:
        value["b"] = ("t", {"c": {}})  # older protocols have no bytes, they call a codec
    assert SafeUnpickler(pickle.dumps(value, protocol)).run() == value


def test_sets_come_as_lists():
    machine = SafeUnpickler(pickle.dumps({"s": {1}, "f": frozenset([2])}, 4))
    assert machine.run() == {"s": [1], "f": [2]}


class Calls:
    """Pickles as a call of *function*."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


ATTACKS = {
    "system": Calls(os.system, "exit 3"),
    "popen": Calls(subprocess.Popen, "true"),
    "builtin": Calls(builtins.eval, "1/0"),
    "compile": Calls(builtins.exec, "1/0"),
    "attribute": Calls(getattr, "x", "upper"),
    "import": Calls(builtins.__import__, "antigravity"),
    "file": Calls(builtins.open, "written-by-attack", "w"),
    "torch-load": Calls(torch.load, "x"),
    "hub": Calls(torch.hub.load, "x"),
}


@BOTH_FORMS
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_globals_that_weights_have_no_use_for_are_refused(attack, protocol, zipped, tmp_path):
    pickled = pickle.dumps({"w": 1, "x": ATTACKS[attack]}, protocol)
    function = ATTACKS[attack].call[0]
    path = with_pickle(tmp_path, pickled, zipped=zipped)
    with pytest.raises(UnsafeFileError, match=rf"file\.pt.*{function.__name__}'"):
        open_checkpoint(path)


def test_refusal_never_suggests_to_turn_safety_off(tmp_path):
    path = with_pickle(tmp_path, pickle.dumps(ATTACKS["system"]))
    with pytest.raises(UnsafeFileError) as caught:
        load_pickle(path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'exit 3'\ntR.",
        b"(S'exit 3'\nios\nsystem\n.",
        b"(cos\nsystem\nS'exit 3'\no.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x8c\x08torch.nn\x8c\x12modules.os.systemx\x93.",
        b"ctorch.nn.functional\nhandle_torch.os.system\n.",
    ],
    ids=["reduce", "inst", "obj", "newobj", "stack-global", "through-a-module", "dotted"],
)
def test_no_operation_reaches_a_global_that_is_not_listed(pickled):
    with pytest.raises(UnsafeFileError):
        SafeUnpickler(pickled).run()


def test_reading_a_hostile_file_imports_and_runs_nothing(tmp_path):
    marker = tmp_path / "marker"
    module = tmp_path / "numpy_like.py"
    module.write_text(f"open({str(marker)!r}, 'w')")
    pickled = b"cnumpy_like\nanything\n(tR."
    path = with_pickle(tmp_path, pickled)
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(UnsafeFileError):
            load_pickle(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert not marker.exists()
    assert "numpy_like" not in sys.modules


def test_extension_codes_are_refused():
    with pytest.raises(DamagedPickleError, match="extension"):
        SafeUnpickler(b"\x80\x02\x82\x01.").run()


def test_lightning_callbacks_are_opaque():
    pickled = (
        b"\x80\x02}(X\x09\x00\x00\x00callbackscpytorch_lightning.callbacks.model_checkpoint\n"
        b"ModelCheckpoint\n)\x81}X\x01\x00\x00\x00aK\x01sbu."
    )
    value = SafeUnpickler(pickled).run()
    assert value == {
        "callbacks": OpaqueObject("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    }


def test_pickle_that_ends_within_a_value_is_damaged():
    with pytest.raises(DamagedPickleError, match="252 bytes too early"):
        SafeUnpickler(b"\x80\x02X\xff\0\0\0ab.").run()


def test_memo_numbers_are_limited():
    with pytest.raises(DamagedPickleError, match="impossible memo number"):
        SafeUnpickler(b"\x80\x02K\x01p99999999999999999999\n.").run()


def nested_tuples(depth):
    pickled = b"\x80\x02)"
    for _ in range(depth):
        pickled += b"2\x86"  # (t, t)
    return pickled


@pytest.mark.parametrize(
    "pickled",
    [
        nested_tuples(200) + b"}q\x00" + nested_tuples(200)[2:] + b"K\x01s.",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02K\x01r\xff\xff\xff\xff.",
        b"\x80\x02K\x01p99999999999999999999\n.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02]q\x00" + b"h\x00a" * 1000 + b".",
    ],
    ids=["exponential-key", "deep-tuples", "deep-lists", "memo-number", "memo-text",
         "huge-bytes", "huge-integer", "digits", "cycle"],
)  # fmt: skip
@pytest.mark.slow
def test_bombs_end_soon_with_a_value_or_a_readable_error(pickled, tmp_path):
    with contextlib.suppress(UnreadableFileError):
        load_pickle(with_pickle(tmp_path, pickled))


def test_operations_are_limited(monkeypatch, tmp_path):
    from sd2_clip.sd2.files import unpickler

    monkeypatch.setattr(unpickler, "MAX_OPERATIONS", 1000)
    path = with_pickle(tmp_path, b"\x80\x02" + b"]0" * 600 + b"N.")
    with pytest.raises(UnreadableFileError, match="1,000 operations"):
        load_pickle(path)


OPERATIONS = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(OPERATIONS), st.binary(max_size=5)), max_size=40))
@pytest.mark.slow
def test_any_sequence_of_operations_ends_in_a_value_or_one_of_two_errors(pieces):
    with contextlib.suppress(DamagedPickleError, UnsafeFileError):
        SafeUnpickler(b"".join(pieces)).run()


def test_state_that_a_module_is_given_again_and_again_counts_each_time():
    state = b"}X\x0b\0\0\0_parameters}(" + b"".join(b"X\4\0\0\0%04dN" % i for i in range(2_000))
    pickled = state + b"usq\0" + b"ctorch.nn.modules.linear\nLinear\n)R" + b"h\0b" * 200_000 + b"."
    with pytest.raises(DamagedPickleError, match="states of more than 1,000,000 parameters"):
        SafeUnpickler(pickled).run()


@BOTH_FORMS
def test_long_names_in_a_pickle_are_refused(zipped, tmp_path):
    path = tmp_path / "x.pt"
    names = {"a" * 600: {"b" * 600: torch.ones(1)}, "c": {}}
    torch.save(names, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableFileError, match="name has more than 1,000 characters"):
        open_checkpoint(path)
