"""Two encodings compared token by token."""

import pytest
import tiny
import torch
from sd2_clip.clip.compare import Distance, compare
from sd2_clip.clip.encode_text import encode_text
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.errors import OptionError


def compared(clip, a, b, **options):
    """The prompts of a comparison; an option's value for B is the second of two."""
    of_a, of_b = ({name: both[side] for name, both in options.items()} for side in (0, 1))
    return compare(encode_text(clip, a, **of_a), encode_text(clip, b, **of_b))


def pairs_of(comparison):
    [prompt] = comparison.prompts
    return {
        pair.label: (pair.a and pair.a.row, pair.b and pair.b.row, pair.distance)
        for pair in prompt.pairs
    }


def test_a_distance_is_relative_to_a_and_has_a_direction():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    assert Distance.of(a, b) == Distance(1.0, 1.0)
    assert Distance.of(b, a) == Distance(0.5, 1.0)
    assert Distance.of(a, torch.tensor([-4.0, 3.0])).cosine == 0.0
    assert Distance.of(a, a) == Distance.of(0 * a, 0 * a) == Distance(0.0, 1.0)
    assert Distance.of(0 * a, a).relative == float("inf")


def test_equal_texts_are_equal(clip):
    comparison = compared(clip, "a cat", "a cat")
    [prompt] = comparison.prompts
    assert prompt.is_equal
    assert prompt.total == prompt.pooled == Distance(0.0, 1.0)
    assert comparison.table().endswith("The conditionings are equal.")


def test_a_weight_moves_its_own_token_only(clip):
    found = pairs_of(compared(clip, "a red cat", "a (red:1.5) cat"))
    assert found["a"][2] == found["cat"][2] == Distance(0.0, 1.0)
    # comfy's weight: empty + w * (z - empty)
    ((z, _),) = encode_text(clip, "a red cat").conditioning
    ((empty, _),) = encode_text(clip, "").conditioning
    z, empty = z[0, 2].double(), empty[0, 2].double()
    assert found["red"][2].relative == pytest.approx(float(0.5 * (z - empty).norm() / z.norm()))


def test_a1111s_weight_lengthens_and_does_not_turn(clip):
    options = {"weight_interpretation": ("comfy", "A1111")}
    found = pairs_of(compared(clip, "a red cat", "a (red:1.5) cat", **options))
    assert found["red"][2].cosine == pytest.approx(1.0)
    assert found["red"][2].relative == pytest.approx(0.5, rel=0.05)  # the mean is restored


def test_tokens_of_other_texts_are_paired_in_order(clip):
    found = pairs_of(compared(clip, "a red cat on a mat", "a blue cat sits on a big mat"))
    assert {label: rows[:2] for label, rows in found.items() if "padding" not in label} == {
        "<|startoftext|>": (0, 0),
        "a": (5, 6),  # the second one
        "red → blue": (2, 2),
        "cat": (3, 3),
        "sits": (None, 4),
        "on": (4, 5),
        "big": (None, 7),
        "mat": (6, 8),
        "<|endoftext|>": (7, 9),
    }
    assert found["sits"][2] is None
    assert found["<|startoftext|>"][2] == Distance(0.0, 1.0)  # it sees no other token
    assert found["padding, 2 rows"] == (8, None, None)
    assert found["padding, mean of 67 rows"][:2] == (10, 10)


def test_texts_of_other_numbers_of_chunks_are_compared(clip):
    table = compared(clip, "a cat " * 50, "a cat").table()
    assert "padding" in table
    assert "   153      -" not in table  # the second chunk's padding is one line
    assert len(table.splitlines()) < 120


def test_the_prompts_of_a_schedule_are_compared_one_by_one(clip):
    options = {"syntax": ("a1111", "a1111")}
    comparison = compared(clip, "[a:b:0.5] x", "[a:c:0.5] x", **options)
    first, second = comparison.prompts
    assert (first.when, second.when) == ("0 to 0.5", "0.5 to 1")
    assert first.is_equal
    assert not second.is_equal
    assert "[0.5 to 1]" in comparison.table()
    with pytest.raises(OptionError, match="2 prompts of A, but 1 of B"):
        compared(clip, "[a:b:0.5]", "a", **options)


def test_all_layers_can_be_compared_and_other_widths_cannot(clip):
    path = tiny.GOLDEN / "tiny_text_encoder.safetensors"
    every = load_clip(path, layer="all", device="cpu", model_options=tiny.MODEL_OPTIONS)
    assert compared(every, "a cat", "a dog").prompts[0].total.relative > 0
    with pytest.raises(OptionError, match="same layer"):
        compare(encode_text(clip, "a cat"), encode_text(every, "a cat"))


def test_hooks_that_make_several_conditionings_are_refused(clip):
    encoded = encode_text(clip, "a cat")
    encoded.conditioning.append(encoded.conditioning[0])
    with pytest.raises(OptionError, match="hooks"):
        compare(encoded, encode_text(clip, "a cat"))


def test_an_embedding_is_compared_by_its_name(clip):
    found = pairs_of(compared(clip, "embedding:kohya cat", "(embedding:kohya:1.2) cat"))
    assert any("kohya" in label and "→" not in label for label in found)
