import pytest
from sd2_clip.headless.topological import find_cycles, sort_sources_first


@pytest.mark.parametrize(
    ("sources", "unsorted"),
    [
        pytest.param({}, [], id="empty"),
        pytest.param({"b": ["a"], "a": []}, [], id="source declared after its user"),
        pytest.param({"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": []}, [], id="diamond"),
        pytest.param({"a": ["a"], "b": []}, ["a"], id="node that feeds itself"),
        pytest.param(
            {"c": ["a"], "a": ["b"], "b": ["a"], "d": []},
            ["c", "a", "b"],
            id="cycle and what depends on it",
        ),
    ],
)
def test_sources_come_first(sources, unsorted):
    order, left = sort_sources_first(sources)
    assert left == unsorted
    assert sorted(order + left) == sorted(sources)
    done = set()
    for node in order:
        assert done.issuperset(sources[node])
        done.add(node)


def test_order_is_the_same_every_time():
    sources = {str(i): [str(j) for j in (i + 1, i + 7) if j < 50] for i in range(50)}
    assert sort_sources_first(sources) == sort_sources_first(dict(sources))


@pytest.mark.parametrize(
    ("sources", "cycles"),
    [
        pytest.param({"a": ["a"]}, [["a"]], id="itself"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["a"]}, [["a", "b", "c"]], id="three"),
        pytest.param({"x": ["a"], "a": ["b"], "b": ["a"]}, [["a", "b"]], id="behind a node"),
        pytest.param({"a": ["a"], "b": ["b"]}, [["a"], ["b"]], id="two"),
        pytest.param({"a": ["s", "b"], "b": ["a"], "s": []}, [["a", "b"]], id="beside a source"),
    ],
)
def test_cycles_are_found(sources, cycles):
    _, unsorted = sort_sources_first(sources)
    assert find_cycles(unsorted, sources) == cycles
