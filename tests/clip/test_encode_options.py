"""The options of an encoding: checked, and documented, in one place."""

import pytest
from sd2_clip.clip.encode_options import ENCODE_OPTIONS, Choice, EncodeOptions
from sd2_clip.sd2.errors import OptionError


def test_options_stand_in_the_frozen_order():
    assert list(ENCODE_OPTIONS)[:7] == [
        "syntax",
        "weight_interpretation",
        "token_normalization",
        "stop_at_clip_layer",
        "steps",
        "chunk_split",
        "padding",
    ]


@pytest.mark.parametrize("name", ENCODE_OPTIONS)
def test_every_value_that_is_offered_is_accepted(name):
    option = ENCODE_OPTIONS[name]
    values = option.choices if isinstance(option, Choice) else (option.low, option.high)
    for value in values:
        assert getattr(EncodeOptions(**{name: value}), name) == value


@pytest.mark.parametrize("name", [n for n, o in ENCODE_OPTIONS.items() if isinstance(o, Choice)])
@pytest.mark.parametrize("value", ["x", "", "none ", None, 0, ["comfy"]], ids=repr)
def test_an_unknown_choice_is_refused_with_the_choices(name, value):
    with pytest.raises(OptionError) as caught:
        EncodeOptions(**{name: value})
    choices = ", ".join(ENCODE_OPTIONS[name].choices)
    assert str(caught.value) == f"{name} {value!r} is unknown. Choose one of: {choices}."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", -1, "steps -1 is not between 0 and 10000."),
        ("steps", 10_001, "steps 10001 is not between 0 and 10000."),
        ("stop_at_clip_layer", 1, "stop_at_clip_layer 1 is not between -24 and 0."),
        ("stop_at_clip_layer", -25, "stop_at_clip_layer -25 is not between -24 and 0."),
        ("steps", "many", "steps 'many' is not a whole number. Choose 0 to 10000."),
        ("steps", 2.0, "steps 2.0 is not a whole number. Choose 0 to 10000."),
        ("steps", True, "steps True is not a whole number. Choose 0 to 10000."),
    ],
)
def test_a_number_that_an_option_cannot_have_is_refused_with_the_range(name, value, message):
    with pytest.raises(OptionError) as caught:
        EncodeOptions(**{name: value})
    assert str(caught.value) == message


def test_whole_numbers_of_numpy_are_accepted():
    numpy = pytest.importorskip("numpy")
    assert EncodeOptions(steps=numpy.int64(20)).steps == 20
