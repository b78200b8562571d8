"""Training through an assistant adapter that nothing but the loss sees."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from diffopd.adapter import adapter_parameters
from diffopd.check import ConfigError
from diffopd.model import together
from support.tiny_runs import randomise, relative_distance, run_rounds


@pytest.fixture
def build(world, tmp_path):
    def built(folder, *overrides):
        return world.build("sft_assistant", tmp_path / folder, "trainer.max_epochs=1", *overrides)

    return built


def test_the_student_is_trained_on_top_of_the_assistant(build, tmp_path):
    """By weights: the backbone with the assistant's product added, and the student's adapter on it."""
    run = build("run", "phase.kl_weight=0.5")
    phase, prompts = run.phase, run.data.batch(0)
    model = phase.model
    randomise(model, "student", 7)
    assistant = {
        key: value.clone() for key, value in adapter_parameters(model.transformer, "assistant").items()
    }
    rounds = run_rounds(run)
    randomise(model, "student", 7)

    given, clean = model.condition(prompts), phase.examples(prompts, model.condition(prompts))
    phase.trainer.fit_loop.epoch_progress.current.reset()
    assert phase.round == 0  # as when it was taken
    sigma, noise = phase.sigmas(0, prompts), phase.noise("sft/noise/0", prompts)
    level = sigma[:, None, None, None]
    latent = (1 - level) * clean + level * noise
    with torch.no_grad():
        routed = model.velocity(latent, sigma, given, together("student", "assistant"))
        alone = model.velocity(latent, sigma, given, "student")
        assert relative_distance(routed, alone) > 1e-2  # it does something
        for key, value in assistant.items():
            if key.endswith("lora_A.weight"):
                layer = model.transformer.get_submodule(key.removesuffix(".lora_A.weight"))
                product = assistant[key.replace("lora_A", "lora_B")] @ value
                layer.base_layer.weight += layer.scaling["assistant"] * product
    merged = model.velocity(latent, sigma, given, "student")
    assert relative_distance(merged.detach(), routed) < 1e-4
    with torch.no_grad():
        base = model.velocity(latent, sigma, given)
    total = (merged - (noise - clean)).square().mean() + 0.5 * (merged - base).square().mean()
    gradient = torch.autograd.grad(total, list(phase.student.weights().values()))
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in gradient])) < 1e-3

    after = adapter_parameters(model.transformer, "assistant")
    assert all(after[key].equal(value) and after[key].grad is None for key, value in assistant.items())


def test_nothing_else_sees_it(build, tmp_path, monkeypatch):
    """Neither samples nor checkpoints nor what is saved."""
    run = build(
        "run", "phase.score_every_n_rounds=1", "+reward=picture_quality", "callbacks.samples.shares=[1]"
    )
    asked, velocity = [], type(run.phase.model).velocity

    def noting(self, latent, sigma, conditioning, adapters=None):
        asked.append((adapters, torch.is_grad_enabled()))
        return velocity(self, latent, sigma, conditioning, adapters)

    monkeypatch.setattr(type(run.phase.model), "velocity", noting)
    run_rounds(run)
    assert {name for name, trained in asked if not trained} <= {"student", "average", None}
    assert {name for name, trained in asked if trained} == {"student + assistant"}
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    student = {key for key in adapter_parameters(run.phase.model.transformer, "student")}
    assert {key.removeprefix("base_model.model.") for key in saved} == student
    checkpoint = tmp_path / "run" / "checkpoints" / "round_000001"
    held = [key for file in checkpoint.rglob("*.safetensors") for key in load_file(file)]
    assert held
    assert not [key for key in held if "assistant" in key]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["phase.assistant=/absent"], r"phase\.assistant=/absent: .*give a PEFT folder"),
        (["adapter=whole"], r"phase\.assistant=.* lies on the frozen backbone .* choose adapter=lora"),
    ],
)
def test_errors_come_before_weights_load(build, monkeypatch, overrides, message):
    monkeypatch.setattr("diffopd.model.Flux2KleinModel.__init__", None)
    with pytest.raises(ConfigError, match=message):
        build("run", *overrides)


def test_an_assistant_for_another_model_is_refused(build, world, monkeypatch):
    with pytest.raises(ConfigError, match=r"phase\.assistant=.*"):
        build("run", f"phase.assistant={world.teachers['ocr']}")


@pytest.mark.slow
def test_the_experiment_that_makes_one_learns_the_base_model_s_samples(world, tmp_path):
    run = world.build("assistant", tmp_path / "run", "trainer.max_epochs=1", "phase.ema.update_interval=1")
    phase, prompts = run.phase, run.data.batch(0)
    randomise(phase.model, "student", 7)
    given = phase.conditioning(prompts)
    clean = phase.examples(prompts, given)
    latent, sigmas = phase.noise("sft/candidate/0/start", prompts), phase.sampler.sigmas()
    for step in range(4):
        with torch.no_grad():
            velocity = phase.model.velocity(latent, sigmas[step].expand(len(latent)), given)
        latent = latent + (sigmas[step + 1] - sigmas[step]) * velocity
    assert relative_distance(clean, latent) < 1e-5
