"""Fused blocks give what diffusers' blocks and autograd give, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, set_trainable
from diffopd.model import SD3Model
from support.fused_calls import count_fused

ROWS = ["teacher", "__base__", "student", "student", "teacher"]
MODULES = [
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
]


def load(tiny, **settings):
    """The tiny model with a trained and a frozen adapter of different ranks."""
    model = SD3Model(**{**tiny.settings, **settings})
    generator = torch.Generator().manual_seed(0)
    for name, rank in (("student", 4), ("teacher", 2)):
        shape = LoRA(rank=rank, alpha=6, target_modules=MODULES, init="gaussian", start=None)
        add_adapter(model.transformer, name, shape, generator)
        for parameter in adapter_parameters(model.transformer, name).values():
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    set_trainable(model.transformer, ["student"])
    return model


def given(model, rows=5):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(rows, *model.latent_shape, generator=generator)
    prompts = model.encode(["a cat", "a dog", "x", "two birds", ""][:rows])
    return latent, torch.linspace(0.1, 0.9, rows), prompts


def gradients(model, velocity):
    parameters = list(adapter_parameters(model.transformer, "student").values())
    found = torch.autograd.grad((velocity**3).sum(), parameters)
    return torch.cat([gradient.flatten() for gradient in found])


def num_fusable(model):
    """Of the model with T5, one block has a second attention and is left to diffusers."""
    return sum(block.attn2 is None for block in model.transformer.transformer_blocks)


def off(ours, theirs):
    """Relative difference."""
    return float(((ours - theirs).norm() / theirs.norm()).detach())


@pytest.fixture
def calls(monkeypatch):
    return count_fused(monkeypatch)


@pytest.mark.parametrize("adapters", [None, "student", ROWS], ids=["base", "one", "mixed"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 2e-2)])
def test_velocities_and_gradients_are_those_of_diffusers(tiny, calls, precision, tolerance, adapters):
    model = load(tiny, fused_blocks=precision)
    at = given(model)
    theirs = model.velocity(*at, adapters)
    assert not calls, "only in a round"
    with model.in_round():
        ours = model.velocity(*at, adapters)
    assert len(calls) == num_fusable(model) > 0
    assert off(ours, theirs) < tolerance
    if adapters is not None:
        assert off(gradients(model, ours), gradients(model, theirs)) < 2 * tolerance
    assert torch.equal(model.velocity(*at, adapters), theirs), "nothing is left behind"


def test_a_gradient_reaches_the_latent_and_rows_do_not_meet(tiny):
    model = load(tiny, fused_blocks="fp32")
    latent, sigma, prompts = given(model)
    latent.requires_grad_()
    with model.in_round():
        ours = torch.autograd.grad(model.velocity(latent, sigma, prompts, ROWS)[2].sum(), latent)[0]
    theirs = torch.autograd.grad(model.velocity(latent, sigma, prompts, ROWS)[2].sum(), latent)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours[[0, 1, 3, 4]].abs().max() == 0


def test_one_graph_has_the_same_gradients_twice(tiny):
    """As a round that compares its tasks' gradients asks for them."""
    model = load(tiny, fused_blocks="bf16")
    parameters = list(adapter_parameters(model.transformer, "student").values())
    with model.in_round():
        loss = model.velocity(*given(model), "student").square().sum()
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_long_inputs_are_worked_on_in_parts(tiny, monkeypatch):
    model = load(tiny, fused_blocks="fp32")
    at = given(model)
    theirs = model.velocity(*at, "student")
    monkeypatch.setattr("diffopd.model.fused_feed_forward._CHUNK", 7)
    with model.in_round():
        ours = model.velocity(*at, "student")
    assert off(ours, theirs) < 2e-6
    assert off(gradients(model, ours), gradients(model, theirs)) < 4e-6


def test_gelu_between_bf16_products_is_worked_on_in_parts(tiny, monkeypatch):
    model = load(tiny, fused_blocks="bf16")
    at = given(model)
    with model.in_round():
        whole = model.velocity(*at, "student")
        monkeypatch.setattr("diffopd.model.fused_feed_forward._ROUNDED_CHUNK", 7)
        parts = model.velocity(*at, "student")
    assert off(parts, whole) < 1e-4
    assert off(gradients(model, parts), gradients(model, whole)) < 1e-4


def test_bf16_is_rounded_to_on_every_processor(tiny):
    """A product that is only allowed to round does not, where the library has no such kernel."""
    velocities = {}
    for precision in ("fp32", "bf16"):
        model = load(tiny, fused_blocks=precision)
        with model.in_round():
            velocities[precision] = model.velocity(*given(model), "student")
    assert off(velocities["bf16"], velocities["fp32"]) > 1e-4


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"fused_blocks": None}])
def test_checkpointed_blocks_and_the_default_take_diffusers_way(tiny, calls, settings):
    model = load(tiny, **{"fused_blocks": "fp32", **settings})
    with model.in_round():
        model.velocity(*given(model), "student").sum().backward()
    assert not calls


def test_a_block_that_is_trained_itself_is_left_alone(tiny, calls):
    model = load(tiny, fused_blocks="fp32")
    with model.in_round():
        model.velocity(*given(model), "student")
        assert len(calls) == num_fusable(model)
        model.transformer.requires_grad_(True)
        model.velocity(*given(model), "student")
    assert len(calls) == num_fusable(model), "no more than before"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": True}, r"model\.fused_blocks=fp32 and model\.compile=true"),
        ({"dtype": "bf16"}, r"no block of SD3Transformer2DModel can be"),
        (
            {"fused_blocks": "fp64"},
            r"model\.fused_blocks=fp64 is not known; choose one of auto, fp32, bf16, or null",
        ),
    ],
)
def test_what_cannot_be_fused_is_an_error(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        SD3Model(**{**tiny.settings, "fused_blocks": "fp32", **settings})


@pytest.mark.parametrize("instructions", [False, True])
def test_auto_fuses_what_can_be_and_refuses_nothing(tiny, monkeypatch, instructions):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": instructions})
    model = load(tiny, fused_blocks="auto")
    assert model._fused is not None
    assert model._fused.half == instructions
    assert model._fused_blocks("auto", compiled=True) is None
    assert load(tiny, fused_blocks="auto", dtype="bf16")._fused is None
