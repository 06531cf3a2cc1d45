"""Weight interpretations against ComfyUI_ADV_CLIP_emb's results, and what they promise."""

import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sd2_clip.sd2.model.token_weights import (
    TOKEN_NORMALIZATIONS,
    WEIGHT_INTERPRETATIONS,
    normalize_weights,
    plan_weighting,
    with_normalized_weights,
)
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

EXPECTED = load_file(tiny.GOLDEN / "encode.safetensors")
CASES = tiny.adv_cases()
MODES = [(mode, norm) for mode in WEIGHT_INTERPRETATIONS for norm in TOKEN_NORMALIZATIONS]
MASK, START, END = 266, 49406, 49407

MODEL = tiny.text_encoder()
TOKENIZER = SD2Tokenizer(embedding_directory=str(tiny.GOLDEN / "embeddings"))
TOKENIZER.clip_h.embedding_size = tiny.CONFIG["hidden_size"]

all_modes = pytest.mark.parametrize(("mode", "norm"), MODES, ids=map("-".join, MODES))


def chunks_of(text):
    return TOKENIZER.tokenize_with_weights(text, return_word_ids=True)["h"]


def states(chunks):
    with torch.inference_mode():
        return MODEL.clip_h(chunks)


def encode(chunks):
    with torch.inference_mode():
        return MODEL.clip_h.encode_chunks(chunks, 1)


def encode_weighted(
    texts,
    encode,
    *,
    weight_interpretation="comfy",
    token_normalization="none",
):
    """``(cond, pooled)`` of each text, (1, 77 * chunks, W) and (1, W).

    By its plan; with ``comfy`` by the text encoder, as Encode SD2 Text does.
    """
    results = []
    for chunks in texts:
        if weight_interpretation == "comfy":
            pairs = with_normalized_weights(chunks, token_normalization)
            with torch.inference_mode():
                results.append(MODEL.encode_token_weights({"h": pairs}))
            continue
        plan = plan_weighting(chunks, weight_interpretation, token_normalization)
        states, pooled = encode(plan.chunks)
        results.append((plan.combine(states), pooled))
    return results


def encoded(text, mode, norm="none"):
    return encode_weighted(
        [chunks_of(text)], encode, weight_interpretation=mode, token_normalization=norm
    )[0]


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_the_reference_has_all_its_cases():
    assert len(CASES) == 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_equals_adv_clip_emb(case):
    cond, pooled = encoded(case["text"], case["interpretation"], case["normalization"])
    close(cond, EXPECTED[f"{case['id']}.cond"])
    close(pooled, EXPECTED[f"{case['id']}.pooled"])


@all_modes
@pytest.mark.parametrize("text", ["", "a cat", "cat, " * 60, "a embedding:kohya portrait"])
def test_weight_one_everywhere_is_the_plain_encoding(mode, norm, text):
    cond, pooled = encoded(text, mode, norm)
    pairs = {"h": [[entry[:2] for entry in chunk] for chunk in chunks_of(text)]}
    with torch.inference_mode():  # as encode does: with gradients other kernels compute
        plain, plain_pooled = MODEL.encode_token_weights(pairs)
    assert torch.equal(cond, plain)
    assert torch.equal(pooled, plain_pooled)


@all_modes
def test_a_text_encodes_alone_as_among_others(mode, norm):
    texts = ["(cat:1.5) (dog:0.5)", "(cat:1.5) (dog:0.5) " * 15, "(embedding:a1111:0.3) x", ""]
    options = {"weight_interpretation": mode, "token_normalization": norm}
    together = encode_weighted(map(chunks_of, texts), encode, **options)
    for text, (cond, pooled) in zip(texts, together, strict=True):
        [(alone, alone_pooled)] = encode_weighted([chunks_of(text)], encode, **options)
        assert torch.equal(cond, alone)
        assert torch.equal(pooled, alone_pooled)


def test_compel_mixes_the_shares_of_its_readme():
    # ComfyUI_ADV_CLIP_emb's README: 0.2·A + 0.3·B + 0.5·C
    pears, apples = 20851, 14051  # any two tokens
    text = [START, pears, 537, apples, 530, END]
    chunk = [(token, 1.0, bool(place) * place) for place, token in enumerate(text)]
    chunk[1], chunk[3] = (pears, 0.2, 1), (apples, 0.5, 3)
    chunk += [(0, 1.0, 0)] * 71
    [(cond, _)] = encode_weighted([[chunk]], encode, weight_interpretation="compel")
    a, b, c = states(
        [
            [*text, *[0] * 71],
            [START, MASK, *text[2:], *[0] * 71],
            [START, MASK, 537, MASK, *text[4:], *[0] * 71],
        ]
    )[0]
    close(cond[0], 0.2 * a + 0.3 * b + 0.5 * c)


def test_a_weight_below_1_masks_its_word_in_a_later_chunk_too():
    chunks = chunks_of("(cat:1.5) " + "dog " * 75 + "(bird:0.25)")
    plan = plan_weighting(chunks, "compel", "none")
    second = [token for token, _, _ in chunks[1]]
    bird = [weight for _, weight, _ in chunks[1]].index(0.25)
    assert (*second[:bird], MASK, *second[bird + 1 :]) in plan.chunks
    cond, _ = encoded("(cat:1.5) " + "dog " * 75 + "(bird:0.25)", "compel")
    z, masked = states([second, [*second[:bird], MASK, *second[bird + 1 :]]])[0]
    close(cond[0, 77:], 0.25 * z + 0.75 * masked)


def test_comfy_plus_plus_moves_a_word_away_from_its_absence():
    plan = plan_weighting(chunks_of("red (cat:1.5)"), "comfy++", "none")
    z, without = states(plan.chunks)[0]
    cond, _ = encoded("red (cat:1.5)", "comfy++")
    assert plan.chunks[1][:4] == (START, 736, MASK, END)
    close(cond[0, 2], z[2] + 0.5 * (z[2] - without[2]))
    close(cond[0, :2], z[:2])


def test_down_weight_never_amplifies():
    half, _ = encoded("red (cat:0.5)", "down_weight")
    double, _ = encoded("(red:2) cat", "down_weight")
    close(half, double)


def test_a1111_keeps_the_mean_of_all_chunks_of_a_text():
    text = "(cat:1.4) dog " * 45
    plain = torch.cat(list(states([[entry[0] for entry in c] for c in chunks_of(text)])[0]))
    cond, _ = encoded(text, "A1111")
    assert cond.shape == (1, 154, 32)
    close(cond.mean(), plain.mean())


@pytest.mark.parametrize("mode", ["compel", "comfy++", "down_weight"])
def test_the_order_of_equal_weights_does_not_matter(mode):
    chunks = chunks_of("(red:0.5) (cat:0.5) (dog:1.4)")
    numbers = {1: 2, 2: 1}
    renumbered = [[(t, w, numbers.get(word, word)) for t, w, word in c] for c in chunks]
    [(one, _)] = encode_weighted([chunks], encode, weight_interpretation=mode)
    [(other, _)] = encode_weighted([renumbered], encode, weight_interpretation=mode)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("text", "mode", "chunks"),
    [
        ("a cat", "compel", 1),
        ("a (cat:1.5) (dog:0.5)", "A1111", 1),
        ("a (cat:1.5) (dog:0.5)", "compel", 3),
        ("a (cat:0.5) (dog:0.5)", "compel", 2),
        ("a (cat:1.5) (dog:1.5)", "comfy++", 3),
        ("a (cat:1.5) (dog:1.5)", "down_weight", 2),
        ("red car, " * 30 + "(blue:0.5)", "compel", 3),  # the first chunk never changes
        ("(red car, :1.2)" * 60, "compel", 3),  # two of three are equal
        ("embedding:kohya (cat:0.5)", "compel", 2),
    ],
)
def test_encodes_each_chunk_once_and_none_in_vain(text, mode, chunks):
    assert len(plan_weighting(chunks_of(text), mode, "none").chunks) == chunks


def test_equal_chunks_of_a_text_are_encoded_once():
    chunk = chunks_of("cat")[0]
    plan = plan_weighting([chunk, chunk], "compel", "none")
    assert len(plan.chunks) == 1
    assert plan.combine(states(plan.chunks)[0]).shape == (1, 154, 32)


def test_length_shares_a_weight_among_the_tokens_of_a_word():
    # ADV_CLIP_emb's README: 1.5 over three tokens gives each 1.29
    chunk = [(0, 1.0, 0), (1, 1.5, 1), (2, 1.5, 1), (3, 1.5, 1), (4, 0.5, 2)]
    assert normalize_weights([chunk], "length")[0] == pytest.approx(
        [1, 1.2887, 1.2887, 1.2887, 0.5], abs=1e-4
    )


def test_a_weight_that_is_no_number_counts_as_one():
    chunk = [(0, 1.0, 0), (1, math.nan, 1), (2, math.inf, 2)]
    assert normalize_weights([chunk], "none") == [[1.0, 1.0, 1e12]]


def test_mean_moves_all_words_alike_and_no_special_token():
    chunks = [[(0, 1.0, 0), (1, 2.0, 1), (2, 1.0, 2)], [(3, 1.0, 3), (4, 1.0, 4), (0, 1.0, 0)]]
    assert normalize_weights(chunks, "mean") == [[1.0, 1.75, 0.75], [0.75, 0.75, 1.0]]


@settings(deadline=None, max_examples=40)
@given(
    weights=st.lists(
        st.one_of(
            st.floats(-5, 5), st.sampled_from([0.0, 1.0, 3.4e38, -3.4e38, math.inf, math.nan])
        ),
        min_size=1,
        max_size=6,
    ),
    mode=st.sampled_from(WEIGHT_INTERPRETATIONS),
    norm=st.sampled_from(TOKEN_NORMALIZATIONS),
)
def test_the_result_is_always_finite(weights, mode, norm):
    words = [(320 + word, weight, word) for word, weight in enumerate(weights, 1)]
    chunk = [(START, 1.0, 0), *words, (END, 1.0, 0), *[(0, 1.0, 0)] * (75 - len(words))]
    [(cond, _)] = encode_weighted(
        [[chunk]], encode, weight_interpretation=mode, token_normalization=norm
    )
    assert torch.isfinite(cond).all()


@pytest.mark.parametrize("mean", ["before", "after"])
def test_a1111_without_a_mean_to_restore_only_multiplies(mean):
    z = torch.tensor([[[1.0, 2.0], [3.0, -6.0 if mean == "before" else 1.0]]])
    weight = 2.0 if mean == "before" else -0.75
    plan = plan_weighting([[(1, 1.0, 0), (2, weight, 1)]], "A1111", "none")
    assert torch.equal(plan.combine(z), z * torch.tensor([1.0, weight]).view(1, 2, 1))
