"""A training whose adapter starts as the merge of its teachers."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from diffopd.adapter import WEIGHTS
from diffopd.adapter.layout import PREFIX
from diffopd.check import ConfigError

MERGED = ("composition", "ocr", "aesthetic")
SHAPES = {
    "merged_exact": ("adapter.rank=9", "adapter.alpha=27"),
    "merged_svd": ("adapter.rank=4", "adapter.alpha=8"),
    "merged_elementwise": ("adapter.rank=3", "adapter.alpha=6"),
}


def start_of(world, choice):
    """What makes a run start as the merge of the world's teachers, which have rank 3 and alpha 6."""
    folders = ",".join(str(world.teachers[task]) for task in MERGED)
    return (f"adapter={choice}", f"adapter.merge.folders=[{folders}]", *SHAPES[choice])


def mean_weights_model(model, world):
    """A copy of the model with the teachers' mean update in its own weights; saved ones have strength 1."""
    other = copy.deepcopy(model)
    saved = [load_file(world.teachers[task] / WEIGHTS) for task in MERGED]
    layers = [key.removesuffix(".lora_A.weight") for key in saved[0] if key.endswith(".lora_A.weight")]
    with torch.no_grad():
        for layer in layers:
            products = [one[layer + ".lora_B.weight"] @ one[layer + ".lora_A.weight"] for one in saved]
            linear = other.transformer.get_submodule(layer.removeprefix(PREFIX)).base_layer
            linear.weight += torch.stack(products).mean(0)
    return other


@torch.no_grad()
def velocity(model, adapter):
    generator = torch.Generator().manual_seed(3)
    latent, sigma = torch.randn(2, *model.latent_shape, generator=generator), torch.tensor([0.9, 0.4])
    return model.velocity(latent, sigma, model.encode(["a red circle", ""]), adapter)


def test_student_and_average_start_as_the_mean_of_the_teachers(world, tmp_path):
    experiment = world.build("mopd_ode", tmp_path / "run", *start_of(world, "merged_exact"))
    phase = experiment.phase
    expected = velocity(mean_weights_model(phase.model, world), None)
    assert (expected - velocity(phase.model, None)).abs().max() > 1e-2
    for name in phase.policies:
        torch.testing.assert_close(velocity(phase.model, name), expected, rtol=0, atol=1e-5)
    before = velocity(phase.model, "student")
    experiment.fit()
    assert (velocity(phase.model, "student") - before).abs().max() > 1e-4


@pytest.mark.parametrize("choice", ["merged_svd", "merged_elementwise"])
def test_the_other_methods_start_elsewhere(world, tmp_path, caplog, choice):
    with caplog.at_level("INFO"):
        phase = world.build("mopd_ode", tmp_path / "run", *start_of(world, choice)).phase
    mean = velocity(mean_weights_model(phase.model, world), None)
    found = velocity(phase.model, "student")
    assert (found - mean).abs().max() > 1e-3
    assert torch.equal(found, velocity(phase.model, "average"))
    (record,) = [one for one in caplog.records if "relative error" in one.message]
    assert "over all layers, from" in record.message


def test_a_rank_that_cannot_hold_the_merge_is_refused_before_weights_load(world, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter.rank=16, .* set adapter.rank=9 adapter.alpha=18"):
        world.build(
            "mopd_ode",
            tmp_path / "run",
            *start_of(world, "merged_exact"),
            "adapter.rank=16",
            "adapter.alpha=32",
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("adapter.start=x", "adapter.start=x and adapter.merge are both given|there is no such folder"),
        ("adapter.merge.weights=[1,2]", "adapter.merge.weights has 2 entries for 3 folders"),
        ("+adapter.merge.rank=3", "adapter.merge.rank is not a setting"),
        ("adapter.merge=exact", "adapter.merge=exact must be a mapping or null"),
    ],
)
def test_settings_that_make_no_sense_are_refused(world, tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        world.build("mopd_ode", tmp_path / "run", *start_of(world, "merged_exact"), setting)
