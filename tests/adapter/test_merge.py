from __future__ import annotations

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.adapter import (
    LoRA,
    MergePart,
    MergePlan,
    adapter_parameters,
    add_adapter,
    add_merged_adapter,
    check_start,
    merge_adapters,
    merge_error,
    save_adapter,
)
from diffopd.model import read_transformer_config

SIZES = {"wide": (7, 12), "tall": (11, 5)}
"""Layer -> (out, in)."""
TARGETS = ("attn.to_q", "attn.to_out.0")


def part(seed, rank, strength, share):
    """Random factors on the layers of ``SIZES``."""
    generator, factors = torch.Generator().manual_seed(seed), {}
    for layer, (size_out, size_in) in SIZES.items():
        factors[f"{layer}.lora_A.weight"] = torch.randn(rank, size_in, generator=generator)
        factors[f"{layer}.lora_B.weight"] = torch.randn(size_out, rank, generator=generator)
    return MergePart(factors=factors, strength=strength, share=share)


PARTS = [part(0, 2, 2.0, 0.5), part(1, 3, 0.5, 0.3), part(2, 1, 1.0, 0.2)]
EQUAL = [part(3, 2, 2.0, 0.25), part(4, 2, 2.0, 0.75)]


def dense(factors, layer, strength):
    """What an adapter adds to a layer's weights, in float64."""
    a, b = (factors[f"{layer}.lora_{x}.weight"].double() for x in "AB")
    return strength * b @ a


def mean_update(parts, layer):
    return sum(part.share * dense(part.factors, layer, part.strength) for part in parts)


@pytest.mark.parametrize("strength", [0.25, 2.0])
def test_the_exact_merge_is_the_mean_of_the_updates(strength):
    merged, error = merge_adapters("exact", PARTS, rank=6, strength=strength)
    for layer in SIZES:
        assert merged[f"{layer}.lora_A.weight"].shape == (6, SIZES[layer][1])
        torch.testing.assert_close(
            dense(merged, layer, strength), mean_update(PARTS, layer), rtol=0, atol=1e-6
        )
    assert error.overall < 1e-7


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_cut_merge_loses_the_tail_of_the_singular_values(rank):
    merged, error = merge_adapters("svd", PARTS, rank=rank, strength=1.5)
    tails, norms = 0.0, 0.0
    for layer in SIZES:
        mean = mean_update(PARTS, layer)
        values = torch.linalg.svdvals(mean)
        tail, norm = values[rank:].square().sum(), values.square().sum()
        assert torch.linalg.matrix_rank(dense(merged, layer, 1.5), rtol=1e-5) == rank
        distance = (dense(merged, layer, 1.5) - mean).norm()
        assert distance == pytest.approx(float(tail.sqrt()), rel=1e-5)
        assert error.layers[layer] == pytest.approx(float((tail / norm).sqrt()), rel=1e-5)
        tails, norms = tails + float(tail), norms + float(norm)
    assert error.overall == pytest.approx(math.sqrt(tails / norms), rel=1e-5)


def test_a_cut_to_the_full_rank_loses_nothing():
    """The layer ``tall`` has 5 singular values; the sixth row of its factors is 0."""
    merged, error = merge_adapters("svd", PARTS, rank=6, strength=1.0)
    assert error.overall < 1e-6
    assert torch.equal(merged["tall.lora_A.weight"][5], torch.zeros(5))
    assert torch.equal(merged["tall.lora_B.weight"][:, 5], torch.zeros(11))


def test_the_elementwise_merge_is_the_mean_of_each_factor():
    merged, error = merge_adapters("elementwise", EQUAL, rank=2, strength=2.0)
    for key in EQUAL[0].factors:
        expected = 0.25 * EQUAL[0].factors[key] + 0.75 * EQUAL[1].factors[key]
        torch.testing.assert_close(merged[key], expected, rtol=0, atol=1e-6)
    for layer in SIZES:
        mean = mean_update(EQUAL, layer)
        gap = (dense(merged, layer, 2.0) - mean).norm() / mean.norm()
        assert gap > 0.1
        assert error.layers[layer] == pytest.approx(float(gap), rel=1e-5)


def test_the_elementwise_merge_does_not_depend_on_where_an_adapter_keeps_its_strength():
    """The same adapter with its strength of 2 in B, as runs save it, and the result at another strength."""
    in_b = [
        MergePart(
            factors={k: 2 * v if k.endswith("lora_B.weight") else v for k, v in part.factors.items()},
            strength=1.0,
            share=part.share,
        )
        for part in EQUAL
    ]
    as_released, _ = merge_adapters("elementwise", EQUAL, rank=2, strength=2.0)
    for parts in (in_b, [in_b[0], EQUAL[1]]):
        merged, _ = merge_adapters("elementwise", parts, rank=2, strength=2.0)
        assert all(torch.equal(merged[key], as_released[key]) for key in merged)
    merged, _ = merge_adapters("elementwise", EQUAL, rank=2, strength=1.0)
    for layer in SIZES:
        assert torch.equal(dense(merged, layer, 1.0), dense(as_released, layer, 2.0))


def test_the_error_of_nothing_is_one():
    zeros = {key: torch.zeros_like(value) for key, value in EQUAL[0].factors.items()}
    assert merge_error(zeros, EQUAL, strength=3.0).overall == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "parts", "rank", "message"),
    [
        (
            "exact",
            PARTS,
            32,
            r"adapter.rank=32, but the exact merge of adapters of rank 2, 3, 1 has rank 6; "
            r"set adapter.rank=6 adapter.alpha=12",
        ),
        ("svd", PARTS, 7, r"adapter.rank=7, .* set adapter.rank to at most 6"),
        (
            "elementwise",
            PARTS,
            2,
            r"needs adapters of one rank, got ranks 2, 3, 1; use adapter\.merge\.method=exact or svd",
        ),
        ("elementwise", EQUAL, 3, r"adapter.rank=3, but .* set adapter.rank=2 adapter.alpha=4"),
    ],
)
def test_a_shape_the_method_cannot_give_is_refused(method, parts, rank, message):
    with pytest.raises(ValueError, match=message):
        merge_adapters(method, parts, rank=rank, strength=2.0)


def test_adapters_on_different_layers_are_refused():
    short = MergePart(
        factors={key: value for key, value in EQUAL[1].factors.items() if "tall" not in key},
        strength=2.0,
        share=0.5,
    )
    with pytest.raises(ValueError, match=r"adapters 0 and 1 of the merge are for different layers .*tall"):
        merge_adapters("exact", [EQUAL[0], short], rank=4, strength=2.0)


def test_weights_become_shares():
    plan = MergePlan.read({"method": "svd", "folders": ["a", "b"], "weights": [3, 1]})
    assert plan.shares == (0.75, 0.25)
    assert MergePlan.read({"method": "svd", "folders": ["a", "b"], "weights": None}).shares == (0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sum"}, r"adapter.merge.method=sum is not known; choose one of exact, svd, elementwise"),
        ({"folders": "a"}, r"adapter.merge.folders='a' must be a list"),
        ({"weights": [1.0]}, r"adapter.merge.weights has 1 entries for 2 folders"),
        ({"weights": [0.0, 0.0]}, r"not all 0; null = equal ones"),
        ({"weights": [2.0, -1.0]}, r"must be finite, at least 0"),
        ({"rank": 3}, r"adapter.merge has keys .*'rank'.*, it needs"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    settings = {"method": "exact", "folders": ["a", "b"], "weights": None, **change}
    with pytest.raises(ValueError, match=message):
        MergePlan.read(settings)


def lora(rank, alpha, folders=None, method="exact", start=None, targets=TARGETS):
    merge = None if folders is None else {"method": method, "folders": folders, "weights": [1, 3]}
    return LoRA(rank=rank, alpha=alpha, init="gaussian", target_modules=targets, start=start, merge=merge)


@pytest.fixture
def folders(model, tmp_path):
    """Two saved adapters of different rank and strength."""
    for seed, (rank, alpha) in enumerate([(2, 4), (3, 1.5)]):
        add_adapter(model.transformer, f"part{seed}", lora(rank, alpha), torch.Generator())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter_parameters(model.transformer, f"part{seed}").values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        save_adapter(model.transformer, f"part{seed}", tmp_path / f"part{seed}")
    return [str(tmp_path / f"part{seed}") for seed in range(2)]


def test_a_new_adapter_starts_as_the_merge_of_saved_ones(model, folders):
    error = add_merged_adapter(model.transformer, "merged", lora(5, 2.5, folders))
    saved = [adapter_parameters(model.transformer, name) for name in ("part0", "part1")]
    merged = adapter_parameters(model.transformer, "merged")
    layers = [key.removesuffix(".lora_A.weight") for key in merged if "lora_A" in key]
    for layer in layers:
        expected = 0.25 * dense(saved[0], layer, 2.0) + 0.75 * dense(saved[1], layer, 0.5)
        torch.testing.assert_close(dense(merged, layer, 0.5), expected, rtol=0, atol=1e-6)
    assert set(error.layers) == set(layers)
    assert not any(parameter.requires_grad for parameter in merged.values())


def test_a_merge_that_does_not_fit_is_refused_before_weights_load(tiny, folders):
    base = read_transformer_config(str(tiny.folder))
    check_start(lora(5, 2.5, folders), base)
    with pytest.raises(ValueError, match=r"adapter.rank=4, .* set adapter.rank=5 adapter.alpha=2.5"):
        check_start(lora(4, 2, folders), base)
    with pytest.raises(ValueError, match=r"adapter.merge.folders.0=.* is for other layers"):
        check_start(lora(5, 2.5, folders, targets=("attn.to_k",)), base)
    with pytest.raises(ValueError, match=r"adapter.merge.folders.1=nowhere: there is no such folder or file"):
        check_start(lora(5, 2.5, [folders[0], "nowhere"]), base)


@pytest.mark.parametrize("choice", ["merged_exact", "merged_svd", "merged_elementwise"])
def test_the_choices_fit_the_shipped_teachers(conf_dir, choice):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        adapter = instantiate(compose("train", overrides=[f"adapter={choice}"]).adapter)
    assert choice == f"merged_{adapter.merge_plan.method}"
    check_start(adapter, read_transformer_config("package://assets/mini_sd3"))


def test_a_start_and_a_merge_together_are_refused():
    with pytest.raises(ValueError, match=r"adapter.start=x and adapter.merge are both given"):
        lora(5, 2.5, ["a", "b"], start="x")
    with pytest.raises(ValueError, match=r"adapter.merge is null"):
        add_merged_adapter(None, "merged", lora(5, 2.5))
