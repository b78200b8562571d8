"""Preference pairs: one round worked by hand, where the rejected pictures come from, and what is an error."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.check import ConfigError, check_config
from support.slow import slow_but
from support.tiny_runs import randomise, relative_distance, run_rounds

K, BETA, PUSH, KEEP = 4, 3.0, 0.5, 0.25


@pytest.mark.parametrize("rejected", slow_but(["student", "base", "pictures"], "student"))
def test_a_round_worked_by_hand(world, tmp_path, rejected):
    """The grid's levels, one noise for both pictures of a pair, gains over the base model."""
    experiment = "dpo_pairs" if rejected == "pictures" else "pso_pairs"
    settings = (f"loss.beta={BETA}", f"loss.push={PUSH}", f"loss.keep={KEEP}", "phase.levels=grid")
    run = world.build(
        *(experiment, tmp_path / "run", "trainer.max_epochs=1", f"phase.rejected={rejected}", *settings),
        *("sampler.num_steps=4", "phase.micro_batch_size=2"),  # a pair at a time
    )
    phase, prompts = run.phase, run.data.batch(0)
    assert phase.micro_batches(prompts) == [[0], [1]]
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)
    given = model.condition(prompts)

    def encoded(pictures):
        return torch.stack([model.encode_picture(picture) for picture in pictures])

    def drawn(name):
        latent = phase.noise("rollout/start", prompts)
        for step in range(K):
            sigma = sigmas[step].expand(2)
            with torch.no_grad():
                velocity = model.velocity(latent, sigma, given, name)
            latent = latent + (sigmas[step + 1] - sigmas[step]) * velocity
        return latent

    preferred = encoded(prompts.targets)
    names = {"student": "student", "base": None}
    other = encoded(prompts.rejected) if rejected == "pictures" else drawn(names[rejected])
    sigma, noise = phase.sigmas(0, prompts), phase.noise("preference/noise/0", prompts)
    assert set(sigma.tolist()) <= set(sigmas[:-1].tolist())
    level = sigma[:, None, None, None]

    def errors(clean, name):
        velocity = model.velocity((1 - level) * clean + level * noise, sigma, given, name)
        return (velocity - (noise - clean)).square().flatten(1).mean(1)

    with torch.no_grad():
        reference = [errors(clean, None) for clean in (preferred, other)]
    found = [errors(clean, "student") for clean in (preferred, other)]
    margin = (reference[0] - found[0]) - PUSH * (reference[1] - found[1])
    total = ((1 + (-BETA * margin).exp()).log() + KEEP * found[1]).mean()
    gradient = torch.autograd.grad(total, list(phase.student.weights().values()))
    rounds = run_rounds(run)
    logged = rounds.metrics
    assert logged["train/loss/preference"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert logged["train/preference/margin"] == pytest.approx(
        float(margin.mean().detach()), rel=1e-3, abs=1e-5
    )
    assert logged["train/preference/won_share"] == pytest.approx(float((margin > 0).float().mean()))
    assert logged["train/preference/rejected_gap"] == pytest.approx(float(found[1].mean().detach()), rel=1e-4)
    assert logged["train/sample_gap/pictures"] == pytest.approx(float(found[0].mean().detach()), rel=1e-4)
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in gradient])) < 1e-3
    assert logged.get("train/cost/images", 0) == (0 if rejected == "pictures" else 2)


@pytest.mark.parametrize(
    ("experiment", "overrides", "message"),
    [
        (
            "pso_pairs",
            ["phase.rejected=pictures"],
            r"data\.rejected_key=null names none; set data\.rejected_key",
        ),
        (
            "dpo_pairs",
            ["phase.rejected=base"],
            r"rejected_key=rejected_file_name names pictures, and .* draws",
        ),
        ("dpo_pairs", ["data.rejected_key=worse"], r"line 1: 'worse' must be the place of one picture below"),
        ("dpo_pairs", ["data.captions=text"], r"data\.rejected_key=.* needs lines that name two pictures"),
        ("pso_pairs", ["loss=flow_matching"], r"loss=flow_matching learns from data, .* choose loss=dpo"),
        ("pso_pairs", ["phase.levels=all"], r"phase\.levels=all must be one of grid, logit_normal"),
    ],
)
def test_errors_come_before_weights_load(world, tmp_path, monkeypatch, experiment, overrides, message):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("diffopd.model.Flux2KleinModel.__init__", load)
    with pytest.raises(ConfigError, match=message):
        world.build(experiment, tmp_path / "run", *overrides)


def test_preferred_pictures_are_those_of_data_that_has_some(conf_dir):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=pso_pairs", "data=ocr"])
    with pytest.raises(ConfigError, match=r"phase=preference prefers pictures of the data, .* has none"):
        check_config(cfg)
