"""What a file costs is bounded by its size: memory by 256 MB + 4 n, time by a multiple of n."""

from __future__ import annotations

import sys
from pathlib import Path

import hostile_costs
import pytest
from cost_limits import failures, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@pytest.mark.slow
def test_worst_kinds_cost_what_their_size_allows(tmp_path: Path) -> None:
    reports = measure(tmp_path, "worst", timeout=300)
    assert {(one["parser"], one["kind"]) for one in reports} == hostile_costs.WORST
    found = [what for report in reports for what in failures(report)]
    assert not found, "\n".join(found)


@pytest.mark.nightly
@pytest.mark.parametrize("parser", sorted({kind.parser for kind in hostile_costs.kinds()}))
def test_every_kind_costs_what_its_size_allows(tmp_path: Path, parser: str) -> None:
    found = [what for one in measure(tmp_path, parser, timeout=1_200) for what in failures(one)]
    assert not found, "\n".join(found)
