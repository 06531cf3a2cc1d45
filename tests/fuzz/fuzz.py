"""Fuzzes one parser, guided by what of our code each input reaches (make fuzz).

``python tests/fuzz/fuzz.py TARGET CORPUS... [-max_total_time=60 and other options of libFuzzer]``
writes new inputs to the first folder. An input that breaks the promise ends it, and is written to
``crash-…``. Needs atheris.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).parents[2]
INSTRUMENTED = ["sd2_clip", "tarfile"]
FAVOURITES = (
    *(None, True, -1, 0, 1, 2**63, 1.5, float("nan"), "", "\0", "\ud800", "*", "CLIP", "x" * 300),
    *([], {}, ["1", 0], [0, 4], [[]], {"__value__": [1]}, -10, -20),
)


def load_plugin() -> None:
    """Import the plugin under its one canonical name, as the tests do."""
    if importlib.util.find_spec("sd2_clip") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "sd2_clip", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    sys.modules["sd2_clip"] = plugin
    spec.loader.exec_module(plugin)


def mutate_json(data: bytes, most: int, seed: int) -> bytes:
    """Change a part of a JSON document; now and then, bytes of its text."""
    generator = random.Random(seed)
    if generator.random() < 0.15:
        return atheris.Mutate(data, most)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, most)
    for _ in range(generator.choice((1, 1, 2, 4))):
        places = [*_places(document)]
        if not places:
            break
        container, key = generator.choice(places)
        try:
            _change(container, key, places, generator)
        except (LookupError, TypeError, ValueError, RecursionError):  # the swap before took it away
            continue
    try:
        changed = json.dumps(document).encode()
    except (ValueError, RecursionError):  # it came to contain itself
        return data[:most]
    return changed if len(changed) <= most else data[:most]


def _places(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending and len(found) < 10_000:
        container = pending.pop()
        if isinstance(container, dict):
            found += [(container, key) for key in container]
            pending += container.values()
        elif isinstance(container, list):
            found += [(container, index) for index in range(len(container))]
            pending += container
    return found


def _change(container: Any, key: Any, places: list[Any], generator: random.Random) -> None:
    other, other_key = generator.choice(places)
    value = container[key]
    match generator.randrange(8):
        case 0:
            del container[key]
        case 1:
            container[key] = generator.choice(FAVOURITES)
        case 2:
            container[key] = json.loads(json.dumps(other[other_key]))
        case 3:
            container[key], other[other_key] = other[other_key], value
        case 4 if isinstance(container, list):
            container.insert(key, json.loads(json.dumps(other[other_key])))
        case 5 if isinstance(container, dict):
            container[str(other_key)] = container.pop(key)
        case 6 if isinstance(value, str):
            raw = atheris.Mutate(value.encode("utf-8", "replace"), 200)
            container[key] = raw.decode("utf-8", "surrogateescape")
        case _ if type(value) is int:
            container[key] = value + generator.choice((-1, 1, -value, 2**31, 8))
        case _:
            container[key] = [value]


def main() -> None:
    name, *arguments = sys.argv[1:]
    sys.path.insert(0, str(ROOT / "tests/support"))
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["yaml"], enable_loader_override=False):
        import yaml  # noqa: F401 (before transformers, which imports it too)

    import torch  # noqa: F401 (not instrumented: only ours and the parsers in Python are to count)
    import transformers  # noqa: F401

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        load_plugin()
        import fuzz_targets

        fuzz_targets.TARGETS[name](b"{}")  # imports what it needs
        for path in sorted((ROOT / "tests/fuzz/seeds" / name).glob("*"))[:20]:
            fuzz_targets.TARGETS[name](path.read_bytes())
    mutator = mutate_json if name in fuzz_targets.JSON_TARGETS else None
    options: dict[str, Any] = {} if mutator is None else {"custom_mutator": mutator}
    atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[name], **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
