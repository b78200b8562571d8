from __future__ import annotations

import pytest
import torch

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, set_trainable
from diffopd.model import BASE, Route, SD3Model, together
from diffopd.types import Conditioning
from support import family_models
from support.slow import slow_but
from support.tiny_pipelines import PROJECTIONS

# A row's result depends on its neighbours only through the rounding of batched matrix products.
ONE_BY_ONE = 1e-5


def add_noisy_adapter(model, name, seed, rank=4):
    """On all projections; of strength 2, by which nothing is rounded."""
    family_models.add_noisy_adapter(model, name, seed, rank=rank, alpha=2 * rank, layers=PROJECTIONS)


def batch_of(model, size):
    generator = torch.Generator().manual_seed(11)
    latent = torch.randn(size, *model.latent_shape, generator=generator)
    sigma = torch.linspace(0.9, 0.2, size)
    return latent, sigma, model.encode([f"a cat {'x' * row}" for row in range(size)])


def one_by_one(model, latent, sigma, conditioning, names):
    rows = [
        model.velocity(latent[r : r + 1], sigma[r : r + 1], conditioning.select([r]), name)
        for r, name in enumerate(names)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("num_adapters", slow_but([1, 2, 4], 2))
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_mixed_batch_equals_one_by_one(model, num_adapters, with_base, training):
    for number in range(num_adapters):
        add_noisy_adapter(model, f"a{number}", seed=number, rank=2 + number)
    model.transformer.train(training)
    names = [f"a{row % num_adapters}" for row in range(6)]
    if with_base:
        names[2] = names[5] = BASE
    latent, sigma, conditioning = batch_of(model, 6)
    with torch.no_grad():
        mixed = model.velocity(latent, sigma, conditioning, names)
        single = one_by_one(model, latent, sigma, conditioning, names)
        plain = model.velocity(latent, sigma, conditioning)
    torch.testing.assert_close(mixed, single, rtol=0, atol=ONE_BY_ONE)
    for row, name in enumerate(names):
        distance = (mixed[row] - plain[row]).abs().max()
        assert distance <= ONE_BY_ONE if name == BASE else distance > 1e-2


def test_one_adapter_for_all_rows_equals_peft_exactly(model):
    add_noisy_adapter(model, "a", seed=0)
    add_noisy_adapter(model, "b", seed=1)
    latent, sigma, conditioning = batch_of(model, 2)
    with torch.no_grad():
        ours = model.velocity(latent, sigma, conditioning, "a")
        listed = model.velocity(latent, sigma, conditioning, ["a", "a"])
        model.transformer.set_adapter("a")
        peft = model.transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
    assert torch.equal(ours, peft)
    assert torch.equal(listed, peft)


def test_several_adapters_at_once_equal_peft_with_all_of_them_active(model):
    add_noisy_adapter(model, "a", seed=0)
    add_noisy_adapter(model, "b", seed=1, rank=2)
    latent, sigma, conditioning = batch_of(model, 2)
    with torch.no_grad():
        ours = model.velocity(latent, sigma, conditioning, ["a", together("a", "b")])
        alone = model.velocity(latent, sigma, conditioning, "a")
        model.transformer.set_adapter(["a", "b"])
        peft = model.transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
    torch.testing.assert_close(ours[1], peft[1], rtol=0, atol=ONE_BY_ONE)
    torch.testing.assert_close(ours[0], alone[0], rtol=0, atol=ONE_BY_ONE)
    assert (ours[1] - alone[1]).abs().max() > 1e-3


def test_no_adapter_is_the_base_bit_for_bit_whatever_peft_has_active(tiny, model):
    latent, sigma, conditioning = batch_of(model, 2)
    with torch.no_grad():
        before = model.velocity(latent, sigma, conditioning)
        add_noisy_adapter(model, "a", seed=0)
        bare = model.transformer(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
        after = model.velocity(latent, sigma, conditioning)
        model.transformer.set_adapter("a")
        still = model.velocity(latent, sigma, conditioning, BASE)
    assert torch.equal(before, bare)
    assert torch.equal(before, after)
    assert torch.equal(before, still)


def test_a_call_changes_neither_trainability_nor_activity(model):
    for seed, name in enumerate(("a", "b")):
        add_noisy_adapter(model, name, seed)
    set_trainable(model.transformer, ["b"])
    latent, sigma, conditioning = batch_of(model, 2)
    trainable = [name for name, p in model.transformer.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".b." in name for name in trainable)
    for adapters in ("a", ["a", "b"], None):
        model.velocity(latent, sigma, conditioning, adapters)
    assert [name for name, p in model.transformer.named_parameters() if p.requires_grad] == trainable
    assert {str(m.active_adapters) for m in model.transformer.modules() if hasattr(m, "lora_A")} == {"[]"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_each_rows_own_adapter(tiny, checkpointing):
    model = SD3Model(**{**tiny.settings, "gradient_checkpointing": checkpointing})
    names = ["a", "b", "a", BASE]
    for seed, name in enumerate(("a", "b", "c")):
        add_noisy_adapter(model, name, seed)
    set_trainable(model.transformer, ["a", "b", "c"])
    latent, sigma, conditioning = batch_of(model, 4)
    parameters = {name: list(adapter_parameters(model.transformer, name).values()) for name in "abc"}

    model.velocity(latent, sigma, conditioning, names).square().sum().backward()
    mixed = {name: [p.grad for p in parameters[name]] for name in "abc"}
    assert all(gradient is None for gradient in mixed["c"])

    for name, rows in (("a", [0, 2]), ("b", [1])):
        for parameter in parameters[name]:
            parameter.grad = None
        velocity = model.velocity(latent[rows], sigma[rows], conditioning.select(rows), name)
        velocity.square().sum().backward()
        for ours, parameter in zip(mixed[name], parameters[name], strict=True):
            assert parameter.grad is not None
            assert (ours - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-7
    assert all(p.grad is None for n, p in model.transformer.named_parameters() if "lora" not in n)


def test_checkpointing_recomputes_with_the_forwards_adapters(tiny):
    """Backward may run after other forwards with other adapters."""
    gradients = []
    for checkpointing in (False, True):
        model = SD3Model(**{**tiny.settings, "gradient_checkpointing": checkpointing})
        for seed, name in enumerate(("a", "b")):
            add_noisy_adapter(model, name, seed)
        set_trainable(model.transformer, ["a", "b"])
        latent, sigma, conditioning = batch_of(model, 3)
        loss = model.velocity(latent, sigma, conditioning, ["b", "a", "b"]).square().sum()
        with torch.no_grad():
            model.velocity(latent, sigma, conditioning, "a")
        loss.backward()
        both = [p for name in "ab" for p in adapter_parameters(model.transformer, name).values()]
        gradients.append(torch.cat([p.grad.flatten() for p in both]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_checkpointing_allows_a_backward_for_each_task(tiny):
    """Several backwards through one graph, as measuring the conflict of gradients takes."""
    gradients = []
    for checkpointing in (False, True):
        model = SD3Model(**{**tiny.settings, "gradient_checkpointing": checkpointing})
        add_noisy_adapter(model, "a", seed=0)
        set_trainable(model.transformer, ["a"])
        latent, sigma, conditioning = batch_of(model, 3)
        losses = model.velocity(latent, sigma, conditioning, "a").square().flatten(1).sum(1)
        losses[:1].sum().backward(retain_graph=True)
        losses[1:].sum().backward()
        parameters = adapter_parameters(model.transformer, "a").values()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_adapters_added_later_are_seen(model):
    latent, sigma, conditioning = batch_of(model, 2)
    add_noisy_adapter(model, "a", seed=0)
    first = model.velocity(latent, sigma, conditioning, "a")
    add_noisy_adapter(model, "b", seed=1)
    with torch.no_grad():
        assert torch.equal(model.velocity(latent, sigma, conditioning, "a"), first.detach())
        assert (model.velocity(latent, sigma, conditioning, "b") - first).abs().max() > 1e-2


def test_unknown_adapters_are_refused(model):
    add_noisy_adapter(model, "a", seed=0)
    latent, sigma, conditioning = batch_of(model, 2)
    with pytest.raises(ValueError, match=r"no adapter named z; the model holds \('a',\)"):
        model.velocity(latent, sigma, conditioning, ["a", "z"])


def test_one_name_per_row_is_required(model):
    add_noisy_adapter(model, "a", seed=0)
    latent, sigma, conditioning = batch_of(model, 3)
    with pytest.raises(ValueError, match="adapters has 2 names, the batch has 3 samples"):
        model.velocity(latent, sigma, conditioning, ["a", "a"])


def test_plan_brings_rows_together_only_where_that_saves_runs():
    assert Route.plan(["a", "a", "b"], 3) == Route(runs=(("a", 2), ("b", 1)), order=None)
    assert Route.plan(["b", "a", "b"], 3) == Route(runs=(("b", 2), ("a", 1)), order=(0, 2, 1))
    assert Route.plan(None, 2) == Route(runs=((BASE, 2),), order=None)


def test_arrange_and_restore_are_inverse():
    rows = torch.arange(5.0)
    route = Route.plan(["a", "b", "c", "a", "b"], 5)
    (arranged,) = route.arrange(rows)
    assert arranged.tolist() == [0, 3, 1, 4, 2]
    assert torch.equal(route.restore(arranged), rows)


def test_conditioning_rows_follow_their_states(model):
    """Swapping rows of every input swaps rows of the output, also where rows are regrouped."""
    for seed, name in enumerate(("a", "b")):
        add_noisy_adapter(model, name, seed)
    latent, sigma, conditioning = batch_of(model, 3)
    with torch.no_grad():
        forward = model.velocity(latent, sigma, conditioning, ["a", "b", "a"])
        flipped = Conditioning(conditioning.embeds.flip(0), conditioning.pooled.flip(0))
        backward = model.velocity(latent.flip(0), sigma.flip(0), flipped, ["a", "b", "a"])
    torch.testing.assert_close(backward.flip(0), forward, rtol=0, atol=ONE_BY_ONE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_side_by_side_adapters_give_the_same_velocities_and_gradients(tiny, checkpointing):
    """As compiled blocks compute them: every adapter for every row, one of them let through."""
    gradients, velocities = [], []
    for side_by_side in (False, True):
        model = SD3Model(**{**tiny.settings, "gradient_checkpointing": checkpointing})
        model._router.side_by_side = side_by_side
        for seed, name in enumerate(("a", "b")):
            add_noisy_adapter(model, name, seed, rank=2 + seed)
        fewer = LoRA(rank=1, alpha=1, target_modules=["attn.to_q"], init="gaussian", start=None)
        add_adapter(model.transformer, "c", fewer, torch.Generator())
        set_trainable(model.transformer, ["a", "b"])
        latent, sigma, conditioning = batch_of(model, 5)
        velocity = model.velocity(latent, sigma, conditioning, ["b", "a", "c", BASE, together("a", "c", "b")])
        with torch.no_grad():
            model.velocity(latent, sigma, conditioning, "a")
        velocity.square().sum().backward()
        both = [p for name in "ab" for p in adapter_parameters(model.transformer, name).values()]
        gradients.append(torch.cat([p.grad.flatten() for p in both if p.grad is not None]))
        velocities.append(velocity.detach())
    assert gradients[0].norm() > 0
    torch.testing.assert_close(velocities[1], velocities[0], rtol=0, atol=ONE_BY_ONE)
    assert (gradients[1] - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_an_adapter_where_rows_are_joined_is_refused(model):
    """Some backbones put all rows' tokens in one long list before their first layers."""
    add_noisy_adapter(model, "a", seed=0)
    layer = model.transformer.transformer_blocks[0].attn.to_q
    joined = torch.ones(6, layer.in_features)
    message = "sees 6 samples where the batch has 2: the backbone has joined the samples"
    with model._router.route(Route.plan("a", 2)), pytest.raises(ValueError, match=message):
        layer(joined)
