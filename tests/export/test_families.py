"""Every format, and whole transformers as teachers, for every family of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from diffopd.adapter import save_adapter
from diffopd.export import __main__ as command
from diffopd.export.formats import FORMATS
from diffopd.teacher import check_frozen, load_frozen
from support.family_models import add_noisy_adapter, load, states
from support.slow import slow_but
from support.tiny_families import FAMILIES, make_family

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", slow_but(FAMILIES, "sd3_5_medium", "flux2_klein"))
def test_every_format_reads_back_and_a_merged_transformer_teaches(name, tmp_path, capsys):
    family = make_family(name, tmp_path / "pipeline")
    model = load(family)
    add_noisy_adapter(model, "student", 0)
    save_adapter(model.transformer, "student", tmp_path / "adapter")
    for written_as in FORMATS:
        given = [f"model={name}", *family.overrides, f"adapter_path={tmp_path / 'adapter'}", "device=cpu"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            overrides = [*given, f"format={written_as}", f"to={tmp_path / written_as}", "tolerance=1e-3"]
            command.run(compose("export", overrides=overrides))
        assert "read back: largest difference" in capsys.readouterr().out
    # All the files that hold an adapter are read here, too, and are the same one.
    for written_as in ("peft", "diffusers", "comfyui"):
        load_frozen(model, written_as, tmp_path / written_as, setting="x")
    check_frozen(
        tmp_path / "merged",
        {**model.transformer.config, "_class_name": type(model.transformer).__name__},
        setting="x",
    )
    load_frozen(model, "merged", tmp_path / "merged", setting="x")
    latent, sigma, conditioning = states(model)
    names = ["merged", "student", "__base__", "comfyui"]
    with torch.no_grad():
        found = model.velocity(latent, sigma, conditioning, names)
        expected = model.velocity(latent, sigma, conditioning, ["student", "student", "__base__", "student"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert len(load_file(tmp_path / "comfyui" / "lora_comfyui.safetensors")) % 3 == 0
