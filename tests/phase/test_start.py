"""A training that starts from a saved adapter: values carry over, everything else is new."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from diffopd.adapter import WEIGHTS
from diffopd.adapter.layout import PREFIX


@pytest.mark.parametrize("name", ["teacher_aesthetic", "guard_aesthetic", "mopd_ode"])
def test_every_trained_adapter_starts_there(world, tmp_path, name):
    start = world.teachers["aesthetic"]
    shape = ("adapter.rank=3", "adapter.alpha=6")
    phase = world.build(name, tmp_path / "run", f"adapter.start={start}", *shape).phase
    saved = load_file(start / WEIGHTS)
    for adapter in phase.policies:
        found = phase.policies[adapter].weights()
        assert {PREFIX + key for key in found} == set(saved)
        for key, value in found.items():  # saved with strength 1, trained with strength 2
            strength = 2 if key.endswith("lora_B.weight") else 1
            assert torch.equal(strength * value, saved[PREFIX + key]), (adapter, key)
    trainable = {key for key, value in phase.model.transformer.named_parameters() if value.requires_grad}
    assert trainable
    assert all(".student." in key for key in trainable)


def test_a_run_goes_on_from_its_checkpoint_and_not_from_its_start(world, tmp_path):
    settings = (f"adapter.start={world.teachers['aesthetic']}", "adapter.rank=3", "adapter.alpha=6")
    settings += ("sampler.num_steps=3", "phase.num_timesteps=2", "phase.updates_per_round=1")
    whole = world.build("teacher_aesthetic", tmp_path / "whole", *settings)
    whole.fit()
    world.build("teacher_aesthetic", tmp_path / "cut", *settings, "trainer.max_epochs=1").fit()
    resumed = world.build("teacher_aesthetic", tmp_path / "cut", *settings)
    resumed.fit()
    for key, value in whole.phase.policies["student"].weights().items():
        assert torch.equal(value, resumed.phase.policies["student"].weights()[key]), key
