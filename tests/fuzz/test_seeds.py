"""The seeds of the fuzzer, and the inputs that it found to break a parser, keep the promise."""

from __future__ import annotations

import warnings
from pathlib import Path

import fuzz_targets
import pytest

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.slow
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_seeds_give_a_result_or_one_sentence(target: str) -> None:
    if target == "captions":
        pytest.importorskip("pyarrow")
    seeds = sorted((SEEDS / target).iterdir())
    assert seeds
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fuzz_targets.TARGETS[target](seed.read_bytes())


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.name for path in SEEDS.iterdir()} == {*fuzz_targets.TARGETS}


def test_what_is_not_our_error_is_a_finding() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fuzz_targets.attempt(fail)
