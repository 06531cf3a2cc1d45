"""Digests tell tensors apart by value, shape and dtype, and nothing else."""

import pytest
import torch
from sd2_clip.sd2.files.tensor_hash import patches_digest, state_dict_digest, tensor_digest

X = torch.arange(6.0).reshape(2, 3)


def test_equal_tensors_have_one_digest_whatever_their_memory():
    assert tensor_digest(X) == tensor_digest(X.t().contiguous().t())


@pytest.mark.parametrize(
    "other", [X + 1, X.reshape(3, 2), X.half(), X.view(torch.int32)], ids=lambda t: str(t.dtype)
)
def test_another_value_shape_or_dtype_has_another_digest(other):
    assert tensor_digest(X) != tensor_digest(other)


def test_the_order_of_a_state_dict_does_not_count_and_its_names_do():
    items = [("a", X), ("b", X + 1)]
    assert state_dict_digest(items) == state_dict_digest(reversed(items))
    assert state_dict_digest(items) != state_dict_digest([("b", X), ("a", X + 1)])


class Adapter:
    def __init__(self, *weights):
        self.weights = weights


def test_a_hosts_objects_count_by_what_they_hold():
    assert patches_digest({"w": Adapter(X, 1)}) == patches_digest({"w": Adapter(X.clone(), 1)})
    assert patches_digest({"w": Adapter(X, 1)}) != patches_digest({"w": Adapter(X, 2)})
    assert patches_digest({"w": [X, X]}) != patches_digest({"w": [X, [X]]})
