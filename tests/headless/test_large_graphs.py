"""Graphs far deeper than Python's stack; how fast they are is measured in benchmarks/."""

import pytest
from fake_graph import chain, executed, fake_node, node, validated

pytestmark = pytest.mark.slow

SIZE = 20_000


def test_long_chain():
    assert executed(chain(100_000)).outputs["show"]["shown"] == [99_998]


def test_ladder_of_diamonds():
    """Every node uses the one before it twice: 2**50 paths."""
    prompt = {"0": node("Number", value=1)}
    for i in range(1, 51):
        prompt[str(i)] = node("Add", a=[str(i - 1), 0], b=[str(i - 1), 0])
    prompt["show"] = node("Show", value=["50", 0])
    assert executed(prompt).outputs["show"]["shown"] == [2**50]


def test_many_users_of_one_node():
    prompt = {"0": node("Number", value=1)}
    prompt |= {str(i): node("Show", value=["0", 0]) for i in range(1, 10_001)}
    assert len(executed(prompt).executed) == 2  # they are twins


def test_many_sources_of_one_node():
    names = [f"x{i}" for i in range(10_000)]
    wide = fake_node(
        lambda **inputs: {"ui": {"sum": [sum(inputs.values())]}},
        required={name: ("INT", {}) for name in names},
        OUTPUT_NODE=True,
    )
    prompt = {name: node("Number", value=i) for i, name in enumerate(names)}
    prompt["wide"] = node("Wide", **{name: [name, 0] for name in names})
    assert executed(prompt, {"Wide": wide}).outputs["wide"]["sum"] == [sum(range(10_000))]


@pytest.mark.parametrize("position", [1, SIZE // 2], ids=["at the start", "in the middle"])
def test_long_cycle(position):
    prompt = chain(SIZE)
    prompt[str(position)] = node("Add", a=[str(SIZE - 2), 0])
    validation = validated(prompt)
    assert not validation.ok
    assert len(validation.bad_nodes) == SIZE - 1 - position


def test_error_at_the_start_of_a_long_chain_is_the_only_one():
    prompt = chain(SIZE)
    prompt["0"] = node("Number", value="x")
    validation = validated(prompt)
    assert list(validation.bad_nodes) == ["0"]
    assert validation.bad_nodes["0"].dependent_outputs == ("show",)
