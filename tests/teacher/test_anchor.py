from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.adapter import (
    LoRA,
    adapter_parameters,
    add_adapter,
    save_adapter,
    set_trainable,
    trainable_adapters,
)
from diffopd.loss import VelocityUniform
from diffopd.model import SD3Model, guided_velocity, read_transformer_config
from diffopd.sampler import FlowSampler
from diffopd.teacher import Anchor, NoAnchor, Recipe, TeacherCard
from diffopd.types import Prompts

RECIPE = Recipe(command="train", seed=1, minutes=2.5, images=6, reward_calls=6, commit="abc")

ROWS = Prompts(("a cat", "a dog"), ("animals",) * 2, ({},) * 2, (0, 1), (0, 1))


def uniform(normalize=False):
    return VelocityUniform(reduction="mean", normalize=normalize)


def anchor(path=None, guidance_scale=3.0, check_base=True, weight=0.04, loss=None):
    return Anchor(
        path=None if path is None else str(path),
        guidance_scale=guidance_scale,
        check_base=check_base,
        weight=weight,
        loss=loss or uniform(),
    )


@pytest.fixture
def folder(tiny, tmp_path):
    """A saved adapter with a card that says guidance 4.5."""
    model = SD3Model(**tiny.settings)
    config = LoRA(rank=2, alpha=4, init="gaussian", target_modules=("attn.to_q",), start=None)
    add_adapter(model.transformer, "style", config, torch.Generator())
    with torch.no_grad():
        for parameter in adapter_parameters(model.transformer, "style").values():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    save_adapter(model.transformer, "style", tmp_path / "style")
    TeacherCard(
        name="style",
        task="style",
        guidance_scale=4.5,
        base=model.identity,
        rank=2,
        alpha=4.0,
        scores={},
        recipe=RECIPE,
    ).save(tmp_path / "style")
    return tmp_path / "style"


def states(model):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, *model.latent_shape, generator=generator)
    return latent, torch.tensor([0.8, 0.3]), model.encode(["a cat", "a dog"]), model.unconditional()


def test_the_base_model_is_the_anchor_without_a_path(model, learner):
    latent, sigma, conditioning, empty = states(model)
    regulariser = anchor()
    regulariser.join(learner(model))
    with torch.no_grad():
        expected = guided_velocity(model, latent, sigma, conditioning, empty, 3.0, None)
    assert torch.equal(regulariser.given(ROWS, conditioning)(latent, sigma), expected)


def test_an_adapter_is_asked_at_its_card_s_guidance_without_gradient(model, folder, learner):
    latent, sigma, conditioning, empty = states(model)
    config = LoRA(rank=2, alpha=4, init="gaussian", target_modules=("attn.to_q",), start=None)
    add_adapter(model.transformer, "student", config, torch.Generator().manual_seed(0))
    set_trainable(model.transformer, ["student"])
    regulariser = anchor(folder, guidance_scale=None)
    regulariser.join(learner(model))
    found = regulariser.given(ROWS, conditioning)(latent, sigma)
    with torch.no_grad():
        expected = guided_velocity(model, latent, sigma, conditioning, empty, 4.5, "anchor")
        base = guided_velocity(model, latent, sigma, conditioning, empty, 4.5, None)
    assert torch.equal(found, expected)
    assert (found - base).abs().max() > 1e-3
    assert not found.requires_grad
    assert trainable_adapters(model.transformer) == ("student",)


def transitions(velocity):
    """The flow sampler's steps from one latent."""
    sampler = FlowSampler(num_steps=3, noise_level=0.0, shift=1.0, guidance_scale=1.0)
    zero = torch.zeros_like(velocity)
    return [sampler.transition(step, zero, velocity, previous_clean=None) for step in range(3)]


def test_the_term_is_the_loss_to_the_anchor_and_pulls_the_student_alone():
    """Mean squared gap of velocities 1 and 3: 4, whose gradient is 2 * (1 - 3) / 4 elements."""
    velocity = torch.ones(1, 1, 2, 2, requires_grad=True)
    target = torch.full((1, 1, 2, 2), 3.0, requires_grad=True)
    term = anchor()(transitions(velocity)[0], target)
    torch.testing.assert_close(term.detach(), torch.tensor([4.0]))
    term.sum().backward()
    torch.testing.assert_close(velocity.grad, torch.full((1, 1, 2, 2), -1.0))
    assert target.grad is None


def test_a_normalised_loss_is_told_its_steps():
    from diffopd.loss import ODEL2

    steps = transitions(torch.ones(1, 1, 2, 2))
    regulariser = anchor(loss=ODEL2(reduction="mean", normalize=True))
    told = regulariser.over(steps)
    terms = [told(step, torch.zeros(1, 1, 2, 2)) for step in steps]
    torch.testing.assert_close(torch.cat(terms).mean(), torch.tensor(1.0))
    assert told.weight == regulariser.weight


def test_no_anchor_weighs_nothing_and_loads_nothing(model, learner):
    none = NoAnchor()
    none.join(learner(model))
    none.check({})
    assert none.weight == 0
    assert none.over([]) is none
    assert not getattr(model.transformer, "peft_config", {})
    latent, sigma, conditioning, _ = states(model)
    assert none.given(ROWS, conditioning)(latent, sigma).abs().max() == 0
    step = transitions(torch.ones(2, 1, 2, 2))[0]
    assert torch.equal(none(step, step.velocity), torch.zeros(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0}, r"regulariser.weight=0 must be a finite number above 0; .*set regulariser=none"),
        ({"guidance_scale": None}, r"regulariser.guidance_scale is null, but the base model has no card"),
        ({"guidance_scale": 0.5}, r"regulariser.guidance_scale=0.5; at least 1"),
        ({"path": "nowhere", "guidance_scale": None}, r"regulariser.path=nowhere: there is no card.json"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        anchor(**settings)


def test_an_anchor_of_another_base_is_refused_on_request(model, folder):
    card = TeacherCard.load(folder)
    TeacherCard(**{**vars(card), "base": "0123456789abcdef"}).save(folder)
    with pytest.raises(ValueError, match=r"regulariser.path=.* on base 0123456789ab, .*check_base=false"):
        anchor(folder).load(model)
    anchor(folder, check_base=False).load(model)
    assert "anchor" in model.transformer.peft_config


def test_an_anchor_that_does_not_fit_is_refused_before_weights_load(tiny, folder):
    config = read_transformer_config(str(tiny.folder))
    anchor(folder).check(config)
    with pytest.raises(ValueError, match=r"regulariser.path=.*missing"):
        anchor(folder).check({**config, "num_layers": 3})


@pytest.mark.parametrize(
    ("choice", "loss", "weight"),
    [
        (["regulariser=none"], None, 0.0),
        (["regulariser=anchor"], "OPD", 0.04),
        (["regulariser=anchor", "loss@regulariser.loss=reverse_kl_released"], "ReverseKLReleased", 0.04),
    ],
)
def test_choices(conf_dir, choice, loss, weight):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=mopd_ode", *choice, "paths.run=."])
    regulariser = instantiate(cfg.regulariser)
    assert regulariser.weight == weight
    if loss is not None:
        assert type(regulariser.loss).__name__ == loss
        assert regulariser.path is None
        assert regulariser.guidance_scale == cfg.sampler.guidance_scale
