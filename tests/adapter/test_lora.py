from __future__ import annotations

import pytest
import torch

from diffopd.adapter import (
    LoRA,
    adapter_names,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    set_trainable,
    trainable_adapters,
)
from support.tiny_pipelines import PROJECTIONS


def lora(rank=4, alpha=8, init="gaussian", target_modules=PROJECTIONS):
    return LoRA(rank=rank, alpha=alpha, init=init, target_modules=target_modules, start=None)


def add(model, name, seed=0, **settings):
    add_adapter(model.transformer, name, lora(**settings), torch.Generator().manual_seed(seed))


def test_an_adapter_covers_the_named_layers_of_every_block(model):
    add(model, "a")
    parameters = adapter_parameters(model.transformer, "a")
    # 8 projections x 2 blocks x (A, B), less the last block's output for text, which SD3 does not have.
    assert len(parameters) == (8 * 2 - 1) * 2
    assert parameters["transformer_blocks.0.attn.to_q.lora_A.weight"].shape == (4, 16)
    assert parameters["transformer_blocks.0.attn.to_out.0.lora_B.weight"].shape == (16, 4)
    assert {p.dtype for p in parameters.values()} == {torch.float32}


def test_a_new_adapter_changes_nothing(model):
    latent, sigma, conditioning = (
        torch.ones(1, *model.latent_shape),
        torch.tensor([0.5]),
        model.encode(["a cat"]),
    )
    before = model.velocity(latent, sigma, conditioning)
    add(model, "a")
    assert torch.equal(model.velocity(latent, sigma, conditioning, "a").detach(), before)


@pytest.mark.parametrize("init", ["gaussian", "kaiming"])
def test_the_start_depends_on_the_generator_alone(model, init):
    add(model, "a", seed=1, init=init)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    add(model, "b", seed=1, init=init)
    assert torch.equal(torch.get_rng_state(), state)
    add(model, "c", seed=2, init=init)
    a, b, c = (adapter_parameters(model.transformer, name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_gaussian_start_has_standard_deviation_one_over_rank(model):
    add(model, "a", rank=8)
    values = torch.cat(
        [p.flatten() for k, p in adapter_parameters(model.transformer, "a").items() if "lora_A" in k]
    )
    # 15 layers x 8 x 16 = 1920 draws: the estimate's standard error is 1.6 %.
    assert values.std().item() == pytest.approx(1 / 8, rel=0.06)


def test_kaiming_start_is_uniform_up_to_one_over_root_width(model):
    add(model, "a", init="kaiming")
    values = adapter_parameters(model.transformer, "a")["transformer_blocks.0.attn.to_q.lora_A.weight"]
    assert 0.2 < values.abs().max() <= 1 / 4  # width 16


def test_adding_an_adapter_changes_nobodys_trainability(model):
    add(model, "a")
    assert trainable_adapters(model.transformer) == ()
    set_trainable(model.transformer, ["a"])
    add(model, "b")
    assert adapter_names(model.transformer) == ("a", "b")
    assert trainable_adapters(model.transformer) == ("a",)
    set_trainable(model.transformer, ["a", "b"])
    assert trainable_adapters(model.transformer) == ("a", "b")
    set_trainable(model.transformer, ["b"])
    assert trainable_adapters(model.transformer) == ("b",)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "lora" not in n)


def test_copy_overwrites_values_and_shares_nothing(model):
    add(model, "a", seed=1)
    add(model, "b", seed=2)
    copy_adapter(model.transformer, "a", "b")
    a, b = (adapter_parameters(model.transformer, name) for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    first = next(iter(a))
    with torch.no_grad():
        a[first].add_(1)
    assert not torch.equal(a[first], b[first])


@pytest.mark.parametrize("other", [{"rank": 2, "alpha": 4}, {"alpha": 4}, {"target_modules": ["to_q"]}])
def test_copy_between_different_configs_is_refused(model, other):
    add(model, "a")
    add(model, "b", **other)
    with pytest.raises(ValueError, match="differ in layers, rank or alpha"):
        copy_adapter(model.transformer, "a", "b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "adapter.rank=0 must be at least 1"),
        ({"init": "zeros"}, "adapter.init=zeros is not known; choose one of gaussian, kaiming"),
        ({"target_modules": []}, "must be a list of module names"),
        ({"target_modules": "to_q"}, "must be a list of module names"),
        ({"target_modules": ["to_q", None]}, "adapter.target_modules has None; each must be the name"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lora(**settings)


def test_names_are_unique_and_known(model):
    add(model, "a")
    with pytest.raises(ValueError, match="already holds an adapter named a"):
        add(model, "a")
    with pytest.raises(ValueError, match=r"no adapter named z; the model holds \('a',\)"):
        set_trainable(model.transformer, ["z"])
    with pytest.raises(ValueError, match="no adapter named z"):
        adapter_parameters(model.transformer, "z")


def test_layers_that_do_not_exist_are_refused_and_leave_the_model_as_it_was(model):
    add(model, "a")
    set_trainable(model.transformer, ["a"])
    with pytest.raises(ValueError, match="has 'nothing', with which the name of no linear layer of"):
        add(model, "b", target_modules=["nothing"])
    assert adapter_names(model.transformer) == ("a",)
    assert trainable_adapters(model.transformer) == ("a",)
