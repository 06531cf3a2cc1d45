"""Texts encoded through the handle: weightings, schedules, layers, long prompts and embeddings."""

from dataclasses import replace
from types import SimpleNamespace

import layouts
import pytest
import tiny
import torch
from safetensors.torch import load_file
from sd2_clip.clip.encode_text import (
    WrongClipError,
    embeddings_fingerprint,
    encode_text,
    encode_texts,
    layer_text,
    tokenizer_for,
)
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.host import standalone_clip
from sd2_clip.host.standalone_clip import StandaloneClip
from sd2_clip.sd2.errors import NotFiniteError, OptionError
from sd2_clip.sd2.model.token_weights import WEIGHT_INTERPRETATIONS

EXPECTED = load_file(tiny.GOLDEN / "encode.safetensors")
ADV = [case for case in tiny.adv_cases() if int(case["id"]) % 7 == 0]
LONG = "(a:1.2)(b:1.4)(c:0.8) " * 30


@pytest.fixture
def foreign(clip):
    """The same encoder as another loader hands it on: with a tokenizer that is not ours."""

    class Handle:
        cond_stage_model = clip.cond_stage_model
        layer_idx = None
        tokenizer = SimpleNamespace(
            clip_h=SimpleNamespace(
                embedding_directory=str(tiny.GOLDEN / "embeddings"), embedding_size=32
            )
        )

        def encode_from_tokens_scheduled(self, tokens):
            return clip.encode_from_tokens_scheduled(tokens)

    return Handle()


def entries(clip, text, **options):
    return encode_text(clip, text, **options).conditioning


def test_an_empty_clip_input_is_explained():
    with pytest.raises(WrongClipError, match="Load SD2 CLIP"):
        tokenizer_for(None)


def test_an_input_that_is_no_clip_is_named():
    with pytest.raises(WrongClipError, match="a str, not a CLIP"):
        tokenizer_for("text")


def test_another_models_clip_is_named():
    class SDXLClipModel:
        pass

    class SDXLTokenizer:
        def __init__(self):
            self.clip_l, self.clip_g = object(), object()

    handle = SimpleNamespace(cond_stage_model=SDXLClipModel(), tokenizer=SDXLTokenizer())
    with pytest.raises(WrongClipError, match=r"SDXLClipModel \(clip_g, clip_l\)"):
        tokenizer_for(handle)


@pytest.mark.parametrize("text", ["", "a (cat:1.5) [dog]", LONG, "(embedding:kohya:1.3) x"])
def test_the_defaults_are_the_handles_own_encoding(text, clip):
    [(cond, options)] = entries(clip, text)
    [(expected, expected_options)] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    assert torch.equal(cond, expected)
    assert torch.equal(options["pooled_output"], expected_options["pooled_output"])


@pytest.mark.parametrize("handle", ["clip", "foreign"])
@pytest.mark.parametrize("case", ADV, ids=lambda case: case["id"])
def test_weightings_work_on_any_handle(case, handle, request):
    [(cond, options)] = entries(
        request.getfixturevalue(handle),
        case["text"],
        weight_interpretation=case["interpretation"],
        token_normalization=case["normalization"],
    )
    torch.testing.assert_close(cond, EXPECTED[f"{case['id']}.cond"], atol=1e-5, rtol=0)
    pooled = options["pooled_output"]
    torch.testing.assert_close(pooled, EXPECTED[f"{case['id']}.pooled"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["compel", "comfy++", "down_weight"])
def test_a_weight_of_0_masks_the_word(mode, clip):
    [(cond, _)] = entries(clip, "(cat:0) dog", weight_interpretation=mode)
    plus = clip.encode("+ dog")  # the mask token is '+</w>'
    torch.testing.assert_close(cond, plus, atol=1e-5, rtol=0)


def test_prompt_editing_gives_entries_with_times(clip):
    found = entries(clip, "a [cat:dog:0.25] x", syntax="a1111")
    for (cond, options), text, start, end in zip(
        found, ["a cat x", "a dog x"], [0.0, 0.25], [0.25, 1.0], strict=True
    ):
        torch.testing.assert_close(cond, clip.encode(text))
        assert (options["start_percent"], options["end_percent"]) == (start, end)
        assert "strength" not in options


def test_alternation_follows_the_steps_and_encodes_each_text_once(clip):
    found = entries(clip, "[cat|dog]", syntax="a1111", steps=4)
    assert [options["end_percent"] for _, options in found] == [0.25, 0.5, 0.75, 1.0]
    assert found[0][0] is found[2][0]
    assert found[0][1] is not found[2][1]


def test_a_text_that_alternates_is_recorded_once(clip):
    found = entries(clip, "[cat|dog]", syntax="a1111", steps=4)
    assert found[0][1]["sd2_clip"] is found[2][1]["sd2_clip"]
    assert found[0][1]["sd2_clip"] is not found[1][1]["sd2_clip"]


def test_and_gives_entries_with_strengths(clip):
    found = entries(clip, "a cat :1.5 AND a dog", syntax="a1111")
    assert [options["strength"] for _, options in found] == [1.5, 1.0]
    torch.testing.assert_close(found[0][0], clip.encode("a cat"))


def test_the_average_of_and_is_a1111s_sum_at_the_cfg_that_the_report_names(clip):
    # As ComfyUI's samplers and A1111's denoiser combine predictions; three arbitrary ones.
    uncond, cat, dog = torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.5]), torch.tensor([1.0, 4.0])
    encoded = encode_text(clip, "a cat :1.5 AND a dog :-0.25", syntax="a1111")
    weights = [options["strength"] for _, options in encoded.conditioning]
    total = float(encoded.report.split("cfg by ")[1].split()[0])
    cfg = 7.0
    a1111 = uncond + sum(
        (cond - uncond) * weight * cfg for cond, weight in zip((cat, dog), weights, strict=True)
    )
    average = sum(c * w for c, w in zip((cat, dog), weights, strict=True)) / sum(weights)
    torch.testing.assert_close(a1111, uncond + cfg * total * (average - uncond))


def test_and_that_comfyui_cannot_average_is_refused(clip):
    with pytest.raises(OptionError, match="sum above 0"):
        entries(clip, "cat AND dog :-1", syntax="a1111")


def test_the_report_of_an_edited_prompt_names_each_part(clip):
    report = encode_text(clip, "[cat:dog:0.5] <lora:x:1>", syntax="a1111").report
    assert "2 parts" in report
    assert "[0.5 to 1] 'dog'" in report
    assert "not applied: <lora:x:1>" in report


@pytest.mark.parametrize(
    ("layer", "words"),
    [(0, "layer 3 of 4, SD2's default"), (-1, "layer 4 of 4, the very last"), (-4, "layer 1 of 4")],
)
def test_the_report_names_the_absolute_layer(layer, words, clip):
    assert encode_text(clip, "x", stop_at_clip_layer=layer).report.endswith(words)


def test_a_layer_that_the_file_lacks_is_called_absent(clip):
    encoder = clip.cond_stage_model.clip_h
    encoder.setup = replace(encoder.setup, placeholder_layers=frozenset([3]))
    other = clip.clone()
    other.clip_layer(-1)
    assert layer_text(other) == "layer 4 of 4, absent from the file: same as layer 3"


def test_the_report_says_how_the_pooled_vector_is_limited(clip):
    encoder = clip.cond_stage_model.clip_h
    encoder.setup = replace(encoder.setup, placeholder_projection=True)
    assert encode_text(clip, "x").report.splitlines()[-2:] == [
        "layer 3 of 4, SD2's default",
        "the pooled vector is not projected: the file has no text projection",
    ]


def test_splitting_between_words_changes_only_where_chunks_end(clip):
    text = "a " + "supercalifragilistic " * 40
    assert "cut by the end of a chunk" in encode_text(clip, text).report
    encoded = encode_text(clip, text, chunk_split="words")
    assert "cut by the end of a chunk" not in encoded.report
    assert encoded.conditioning[0][0].shape[1] % 77 == 0


WEIGHTED = "a (cat:1.5) and (two dogs:0.5), (embedding:kohya:1.3) [x]"
OPTIONS = [
    {"weight_interpretation": mode, "token_normalization": normalization, "syntax": syntax}
    for mode in WEIGHT_INTERPRETATIONS
    for normalization in ("none", "length+mean")
    for syntax in ("comfy", "a1111")
]


@pytest.mark.parametrize("handle", ["clip", "foreign"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options.values()))
@pytest.mark.parametrize("text", ["", "cat", WEIGHTED, "x " * 75])
def test_without_padding_each_row_is_as_with_padding(text, options, handle, request):
    clip = request.getfixturevalue(handle)
    padded = encode_text(clip, text, **options)
    encoded = encode_text(clip, text, **options, padding="none")
    [(whole, whole_options)], [(cond, cond_options)] = padded.conditioning, encoded.conditioning
    rows = int(encoded.report.split()[0]) + 2
    assert cond.shape == (1, rows, 32)
    assert torch.equal(cond, whole[:, :rows])
    assert torch.equal(cond_options["pooled_output"], whole_options["pooled_output"])
    assert f"conditioning of {rows} rows, without padding" in encoded.report


def test_without_padding_the_states_are_those_of_the_text_alone(clip):
    """As transformers computes them without padding: nothing but start, tokens and end."""
    [chunk] = clip.tokenize("a fox")["h"]
    expected = clip.encode_from_tokens({"h": [chunk[:4]]})
    [(cond, _)] = entries(clip, "a fox", padding="none")
    torch.testing.assert_close(cond, expected, atol=1e-5, rtol=0)


def test_an_empty_prompt_without_padding_has_two_rows_of_its_own(clip):
    [(cond, _)] = entries(clip, "", padding="none")
    assert cond.shape == (1, 2, 32)
    assert cond.untyped_storage().nbytes() == 2 * 32 * 4


def test_layer_all_without_padding_keeps_the_rows_of_every_layer(standalone):
    clip = load_clip(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        device="cpu",
        layer="all",
        model_options=tiny.MODEL_OPTIONS,
    )
    [(cond, _)] = entries(clip, "a fox", padding="none")
    assert cond.shape == (1, 4, 4, 32)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("cat " * 76, {}, r"takes 2 chunks \(76 tokens\)"),
        ("cat " * 200, {}, r"takes 3 chunks \(200 tokens\)"),
        ("cat BREAK dog", {"syntax": "a1111"}, r"takes 2 chunks \(2 tokens\)"),
        ("BREAK BREAK", {"syntax": "a1111"}, r"takes 2 chunks \(0 tokens\)"),
        ("a [cat:dog:0.5]", {"syntax": "a1111"}, "makes 2 of them"),
        ("[a|b|c]", {"syntax": "a1111", "steps": 5}, "makes 5 of them"),
        ("cat AND dog", {"syntax": "a1111"}, "makes 2 of them"),
    ],
)
def test_without_padding_what_is_not_one_chunk_is_refused_with_its_count(
    text, options, message, clip
):
    with pytest.raises(OptionError, match=message):
        entries(clip, text, padding="none", **options)


def test_a_schedule_that_leaves_one_prompt_needs_no_padding(clip):
    [(cond, _)] = entries(clip, "a [cat:fox:0]", padding="none", syntax="a1111")
    assert torch.equal(cond, entries(clip, "a fox", padding="none")[0][0])


@pytest.mark.parametrize("weight", ["3e38", "1e30", "-1e38"])
@pytest.mark.parametrize("mode", ["comfy", "A1111", "compel", "comfy++", "down_weight"])
def test_the_largest_weights_stay_finite(mode, weight, clip):
    text = f"(cat:{weight}) dog (bird:0.5)"
    [(cond, _)] = entries(clip, text, weight_interpretation=mode)
    assert torch.isfinite(cond).all()


@pytest.mark.parametrize("options", [{"syntax": "auto"}, {"steps": -1}], ids=str)
def test_values_that_an_option_cannot_have_are_refused(options, clip):
    with pytest.raises(OptionError):
        entries(clip, "x", **options)


def test_an_unknown_option_is_named(clip):
    with pytest.raises(TypeError, match="'weights'"):
        entries(clip, "x", weights="comfy")


def test_layer_all_cannot_be_weighted_otherwise(standalone):
    clip = load_clip(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        device="cpu",
        layer="all",
        model_options=tiny.MODEL_OPTIONS,
    )
    with pytest.raises(OptionError, match="another layer"):
        entries(clip, "(x:1.1)", weight_interpretation="A1111")


def test_with_a1111_any_word_may_name_an_embedding(standalone, tmp_path):
    folder = standalone.model_folders("embeddings")[0]
    before = embeddings_fingerprint("a style", "a1111")
    layouts.save_safetensors({"emb_params": torch.zeros(1, 32)}, folder / "style.safetensors")
    assert embeddings_fingerprint("a style", "a1111") != before
    assert embeddings_fingerprint("a style") == ""


BROKEN = "text_model.encoder.layers.1.mlp.fc1.weight"


def broken_file(folder, *, value=float("nan"), name=BROKEN, names=None):
    """Write the tiny encoder with one value that is not finite, as a broken download has it."""
    tensors = {key: tensor.float() for key, tensor in tiny.state_dict().items()}
    tensors[name].view(-1)[99 % tensors[name].numel()] = value
    if names is not None:
        tensors = names(tensors)
    return layouts.save_safetensors(tensors, folder / "broken.safetensors")


def loaded(path):
    return load_clip(path, device="cpu", dtype="fp32", model_options=tiny.MODEL_OPTIONS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [
    {}, {"weight_interpretation": "compel"}, {"weight_interpretation": "A1111"},
    {"syntax": "a1111"}, {"token_normalization": "mean"},
], ids=str)  # fmt: skip
def test_an_encoding_that_is_not_finite_is_an_error_that_names_the_tensor(
    value, options, standalone, tmp_path
):
    clip = loaded(broken_file(tmp_path, value=value))
    with pytest.raises(NotFiniteError, match=rf"broken\.safetensors is damaged: .*{BROKEN}"):
        encode_text(clip, "a (cat:1.2)", **options)


@pytest.mark.parametrize("name", ["text_projection.weight", "text_model.final_layer_norm.bias"])
def test_a_pooled_vector_or_a_norm_that_is_not_finite_is_an_error_too(name, standalone, tmp_path):
    with pytest.raises(NotFiniteError, match=name):
        encode_text(loaded(broken_file(tmp_path, value=float("inf"), name=name)), "a cat")


def test_the_tensor_is_named_as_in_the_file_too(standalone, tmp_path):
    path = broken_file(tmp_path, names=layouts.openclip)
    with pytest.raises(NotFiniteError, match=rf"{BROKEN} .*in the file: .*resblocks\.1\.mlp"):
        encode_text(loaded(path), "a cat")


def test_the_layer_and_a_dtype_are_named_where_all_weights_are_finite(standalone, tmp_path):
    name = "text_model.encoder.layers.2.layer_norm1.weight"
    path = broken_file(tmp_path, value=3.4e38, name=name)
    with pytest.raises(NotFiniteError, match=r"all weights are finite, .* at layer 3"):
        encode_text(loaded(path), "a cat")


def test_a_weight_that_only_fp16_cannot_hold_is_no_damage(standalone, tmp_path):
    path = broken_file(tmp_path, value=1e5)
    encode_text(loaded(path), "a cat")
    clip = load_clip(path, device="cpu", dtype="fp16", model_options=tiny.MODEL_OPTIONS)
    with pytest.raises(NotFiniteError, match=rf"{BROKEN} .*as float16. Set dtype .* to fp32"):
        encode_text(clip, "a cat")
    clip = load_clip(
        broken_file(tmp_path), device="cpu", dtype="fp16", model_options=tiny.MODEL_OPTIONS
    )
    with pytest.raises(NotFiniteError, match=r"broken\.safetensors is damaged"):
        encode_text(clip, "a cat")


def test_a_lora_that_broke_a_weight_is_named(clip, monkeypatch):
    monkeypatch.setattr(standalone_clip, "_check_fits", lambda *_: None)  # as ComfyUI's
    clip = clip.clone()
    weight = f"clip_h.transformer.{BROKEN}"
    clip.add_patches({weight: lambda weight, _: weight * float("inf")})
    with pytest.raises(NotFiniteError, match="after a LoRA or a merge changed it"):
        encode_text(clip, "a cat")


def test_a_pooled_vector_of_unset_memory_is_zeroed_for_another_loaders_clip(
    clip, foreign, caplog, monkeypatch
):
    model = clip.cond_stage_model
    expected = encode_text(foreign, "a cat").conditioning
    model.clip_h.setup = replace(model.clip_h.setup, source=None, cache=None)
    model.clip_h.transformer.text_projection.weight.data.fill_(float("nan"))
    monkeypatch.setattr(StandaloneClip, "_refuse_nonfinite", lambda *_: None)  # as ComfyUI's
    [[cond, options]] = encode_text(foreign, "a cat").conditioning
    assert torch.equal(cond, expected[0][0])
    assert not options["pooled_output"].any()
    assert "text_projection.weight holds NaN" in caplog.text
    foreign.layer_idx = None
    model.clip_h.transformer.text_model.final_layer_norm.weight.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="Load the file with Load SD2 CLIP"):
        encode_text(foreign, "a cat")


def test_a_sound_encoding_is_not_searched(clip, monkeypatch):
    from sd2_clip.sd2.model import nonfinite

    monkeypatch.setattr(nonfinite, "find_nonfinite", None)
    encode_text(clip, "a (cat:1.3)")


LIST = ["a cat", "", LONG, "a (red:1.3) fox", "a cat", "(embedding:kohya:1.3) x", "[a:b:0.5] AND c"]
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
"""A batch rounds its products otherwise than one prompt."""


def count_calls(handle, monkeypatch):
    """The sizes of the calls of *handle* from now on, in chunks."""
    sizes = []
    encode = handle.encode_from_tokens_scheduled

    def counted(tokens):
        sizes.append(len(tokens["h"]))
        return encode(tokens)

    monkeypatch.setattr(handle, "encode_from_tokens_scheduled", counted, raising=False)
    return sizes


def assert_as_single(handle, texts, encoded, **options):
    for text, one in zip(texts, encoded, strict=True):
        single = encode_text(handle, text, **options)
        assert one.report == single.report
        for (cond, given), (expected, about) in zip(
            one.conditioning, single.conditioning, strict=True
        ):
            torch.testing.assert_close(cond, expected, **ROUNDING)
            pooled, expected_pooled = given.pop("pooled_output"), about.pop("pooled_output")
            torch.testing.assert_close(pooled, expected_pooled, **ROUNDING)
            assert given == about


@pytest.mark.parametrize("syntax", ["comfy", "a1111"])
@pytest.mark.parametrize("mode", ["comfy", "A1111", "compel", "comfy++", "down_weight"])
def test_a_list_is_encoded_as_its_texts_are_one_by_one(mode, syntax, clip, monkeypatch):
    options = {"weight_interpretation": mode, "syntax": syntax}
    calls = count_calls(clip, monkeypatch)
    encoded = encode_texts(clip, LIST, **options)
    assert len(calls) <= 3  # comfy++ masks each word of the long text: 64 chunks
    assert_as_single(clip, LIST, encoded, **options)


def test_a_list_for_another_layer_and_normalization_is_encoded_as_one_by_one(clip):
    options = {"stop_at_clip_layer": -1, "token_normalization": "length+mean"}
    assert_as_single(clip, LIST, encode_texts(clip, LIST, **options), **options)


def test_a_list_through_a_handle_that_returns_all_layers(standalone):
    path = tiny.GOLDEN / "tiny_text_encoder.safetensors"
    every = load_clip(path, layer="all", device="cpu", model_options=tiny.MODEL_OPTIONS)
    texts = ["a cat", LONG]
    encoded = encode_texts(every, texts)
    assert encoded[1].conditioning[0][0].dim() == 4
    assert_as_single(every, texts, encoded)


def test_a_batch_is_as_large_as_one_pass_and_equal_texts_are_encoded_once(clip, monkeypatch):
    calls = count_calls(clip, monkeypatch)
    encode_texts(clip, ["a cat"] * 100)
    assert calls == [1]
    del calls[:]
    encode_texts(clip, [f"{number} cats" for number in range(70)])
    assert calls == [32, 32, 6]
    del calls[:]
    encode_texts(clip, [f"({number} cats:1.1)" for number in range(32)])
    assert calls == [31, 1]  # and the empty prompt


def test_results_of_a_batch_have_memory_of_their_own(clip):
    first, second = (one.conditioning[0] for one in encode_texts(clip, ["a cat", "a dog"]))
    for tensor in (first[0], first[1]["pooled_output"]):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    expected = second[0].clone()
    first[0].zero_()
    assert torch.equal(second[0], expected)


def test_an_error_says_which_text_of_the_list_it_is(clip):
    with pytest.raises(OptionError, match=r"^Prompt 2 of 3: "):
        encode_texts(clip, ["a", "a AND b :-1", "c"], syntax="a1111")
    assert encode_texts(clip, []) == []


class CoreEncoder(torch.nn.Module):
    """Encodes as ComfyUI's class does: a call of the module, and one pooled vector a call."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.num_layers, self.options_default = inner.num_layers, inner.options_default
        self.transformer = inner.transformer
        self.calls = 0

    def forward(self, tokens):
        self.calls += 1
        return self.inner(tokens)

    def encode_from_tokens_scheduled(self, tokens):
        chunks = list(tokens["h"])
        cond, _ = self.inner.encode_token_weights(chunks)
        _, pooled = self([[pair[0] for pair in chunk] for chunk in chunks])
        return [[cond, {"pooled_output": pooled[:1], "kept": "as it is"}]]


@pytest.fixture
def core(clip):
    """A handle that returns the pooled vector of the first chunk only, as ComfyUI's own do."""
    tokenizer = SimpleNamespace(
        clip_h=SimpleNamespace(
            embedding_directory=str(tiny.GOLDEN / "embeddings"), embedding_size=32
        )
    )
    encoder = CoreEncoder(clip.cond_stage_model.clip_h)
    return SimpleNamespace(
        cond_stage_model=SimpleNamespace(clip_h=encoder),
        encode_from_tokens_scheduled=encoder.encode_from_tokens_scheduled,
        tokenizer=tokenizer,
        layer_idx=None,
    )


def test_each_text_has_its_own_pooled_vector_with_comfyuis_encoder_too(core):
    encoded = encode_texts(core, LIST)
    assert core.cond_stage_model.clip_h.calls == 1
    assert_as_single(core, LIST, encoded)
    assert encoded[0].conditioning[0][1]["kept"] == "as it is"
    assert not core.cond_stage_model.clip_h._forward_hooks


@pytest.mark.parametrize("hooked", ["patcher", "handle"])
def test_with_hooks_each_text_is_a_call_of_its_own(hooked, core):
    if hooked == "patcher":
        core.patcher = SimpleNamespace(patches={}, forced_hooks=object())
    else:
        core.apply_hooks_to_conds = object()
    encoded = encode_texts(core, ["a cat", "a dog"])
    assert core.cond_stage_model.clip_h.calls == 2
    assert_as_single(core, ["a cat", "a dog"], encoded)


def test_one_text_of_a_list_that_is_not_finite_is_clamped_as_alone(clip):
    texts = ["a cat", "a (cat:1e38) (dog:-1e38)"]
    encoded = encode_texts(clip, texts)
    assert all(one.conditioning[0][0].isfinite().all() for one in encoded)
    assert_as_single(clip, texts, encoded)
