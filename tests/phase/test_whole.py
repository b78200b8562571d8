"""Full fine-tuning: all weights of a transformer beside the base model's, which stays as it is."""

from __future__ import annotations

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint
from diffopd.checkpoint.tensor_files import INDEX, TENSORS
from diffopd.policy import LowRank, Whole
from diffopd.run.trained import adapter_of
from support.interruption import ROUNDS, Interrupt, final_state

WHOLE = ("adapter=full", "optimizer.lr=1e-3", "phase.ema.update_interval=2", "~report", "~benchmark")
RUNS = {
    "opd": ("mopd_ode", "reward=picture_quality", "sampler.num_steps=4"),
    "tdm": ("mopd_tdm", "reward=picture_quality"),
    "nft": ("teacher_aesthetic", "sampler.num_steps=4", "phase.num_timesteps=2", "phase.updates_per_round=1"),
}


@pytest.fixture
def build(world, tmp_path):
    def built(name, folder="run", *more):
        experiment, *changes = RUNS[name]
        return world.build(experiment, tmp_path / folder, *changes, *WHOLE, *more)

    return built


def values(policy):
    return {key: value.detach().clone() for key, value in policy.weights().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", RUNS)
def test_all_weights_learn_and_the_base_model_stays(build, name):
    run = build(name, "run", f"trainer.max_epochs={ROUNDS}")
    phase = run.phase
    assert all(isinstance(policy, Whole) for policy in phase.policies.values())
    base = {k: v.clone() for k, v in phase.model.transformer.state_dict().items() if ".lora_" not in k}
    start = values(phase.student)
    assert equal(start, values(phase.average))
    names = {name for name, _ in phase.model.transformer.named_parameters() if ".lora_" not in name}
    assert {name.replace(".base_layer.", ".") for name in names} == start.keys()
    run.fit()
    after = values(phase.student)
    moved = [key for key in start if not torch.equal(start[key], after[key])]
    assert len(moved) > len(start) / 2
    for key, value in phase.model.transformer.state_dict().items():
        if ".lora_" not in key:
            assert torch.equal(value, base[key]), key
    state = final_state(run.folder)
    trained = {f"model.{phase.model.backbones.prefix(policy)}" for policy in phase.policies}
    kept = [key for key in state if "backbones" in key]
    assert {next(t for t in trained if t in key) for key in kept} == trained
    assert not any("lora" in key for key in state)


def test_stock_diffusers_and_a_teacher_read_what_is_exported(build, world, tmp_path):
    run = build("opd", "run", "trainer.max_epochs=3")
    run.fit()
    average = run.phase.average
    stock = SD3Transformer2DModel.from_pretrained(run.folder / "adapter")
    found = dict(stock.named_parameters())
    assert equal({key: value.detach() for key, value in found.items()}, values(average))
    assert not equal(values(average), values(run.phase.student))
    newest = latest_valid_checkpoint(run.folder / "checkpoints")
    stored = load_file(newest / TENSORS)
    prefix = f"state_dict.model.{run.phase.model.backbones.prefix(average.name)}"
    assert not any(key.startswith(prefix) for key in stored)  # the file of the adapter holds them
    restored = read_checkpoint(newest)["state_dict"]
    for key, value in average.transformer.state_dict().items():
        assert torch.equal(restored[f"{prefix}{key}".removeprefix("state_dict.")], value)
    of_checkpoint = SD3Transformer2DModel.from_pretrained(adapter_of(newest, setting="adapter"))
    assert equal({key: value.detach() for key, value in of_checkpoint.named_parameters()}, values(average))

    teacher = [
        "~teacher.teachers.ocr",
        "~teacher.teachers.aesthetic",
        "~data.tasks.ocr",
        "~data.tasks.aesthetic",
    ]
    teacher += [f"teacher.teachers.composition.path={run.folder / 'adapter'}"]
    teacher += ["teacher.teachers.composition.guidance_scale=1"]
    taught = world.build("mopd_ode", tmp_path / "taught", *RUNS["opd"][1:], "~report", "~benchmark", *teacher)
    taught.fit()
    assert isinstance(taught.phase.student, LowRank)


@pytest.mark.slow  # of adapters each time, in tests/phase/test_resume.py
def test_an_interrupted_run_is_the_run_that_was_not(build):
    """Its checkpoints are in several files, each of at most a tenth of a MiB of tensors."""
    settings = (f"trainer.max_epochs={ROUNDS}", "callbacks.round_checkpoint.every_n_rounds=100")
    settings += ("callbacks.round_checkpoint.largest_file_gib=1e-4",)
    build("opd", "whole", *settings).fit()
    first = build("opd", "cut", *settings)
    first.trainer.callbacks.insert(0, Interrupt(in_round=1))
    first.fit()
    again = build("opd", "cut", *settings)
    assert again.checkpoint is not None
    assert (again.checkpoint / INDEX).is_file()
    again.fit()
    expected, found = (final_state(again.folder.parent / name) for name in ("whole", "cut"))
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def test_an_adapter_and_whole_weights_are_not_copied_into_each_other(build, world, tmp_path):
    whole = build("opd").phase
    low = world.build("mopd_ode", tmp_path / "low", "reward=picture_quality", "~report", "~benchmark").phase
    with pytest.raises(ValueError, match="average is a whole transformer and student is none"):
        whole.average.copy_from(low.student)
    with pytest.raises(ValueError, match="average is an adapter and student is none"):
        low.average.copy_from(whole.student)
    with pytest.raises(ValueError, match="the base model is fixed"):
        low.base.copy_from(low.student)


def test_one_update_is_that_of_the_optimizer_on_all_weights(build):
    """The first step of a student equal to its start, by torch alone: SGD on the loss's own gradient."""
    sgd = (
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "~optimizer.eps",
        "optimizer.weight_decay=0",
    )
    run = build("opd", "run", "trainer.max_epochs=1", *sgd, "phase.gradient_clip=1000000")
    student, gradients = run.phase.student, {}
    before, take = values(student), run.phase.update

    def update():
        gradients.update({k: v.grad.clone() for k, v in student.weights().items() if v.grad is not None})
        return take()

    run.phase.update = update
    run.fit()
    assert sum(float(g.square().sum()) for g in gradients.values()) > 0
    for key, value in values(student).items():
        step = 1e-3 * gradients[key] if key in gradients else 0
        torch.testing.assert_close(value, before[key] - step)
    assert load_file(run.folder / "adapter" / "diffusion_pytorch_model.safetensors").keys() >= before.keys()
