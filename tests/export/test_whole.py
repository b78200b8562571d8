"""All weights of a transformer are exported as a whole pipeline, which stock diffusers opens."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from hydra import compose, initialize_config_dir

from diffopd.config.folder import config_folder
from diffopd.export import __main__ as command
from support.slow import slow_but
from support.tiny_families import CLASSES, make_family


@pytest.mark.parametrize("name", slow_but(CLASSES, "flux2_klein"))
def test_a_trained_transformer_becomes_a_pipeline(name, tmp_path, capsys):
    family = make_family(name, tmp_path / "pipeline")
    trained = family.stock().transformer
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "trained", safe_serialization=True)

    def export(written_as):
        given = [f"model={name}", *family.overrides, f"adapter_path={tmp_path / 'trained'}", "device=cpu"]
        with initialize_config_dir(config_folder(), version_base="1.3"):
            overrides = [*given, f"format={written_as}", f"to={tmp_path / written_as}", "tolerance=1e-3"]
            command.run(compose("export", overrides=overrides))

    with pytest.raises(
        ValueError, match=r"is a whole transformer .* which is no diffusers LoRA file; choose"
    ):
        export("diffusers")
    export("merged")
    assert "read back: largest difference" in capsys.readouterr().out
    found = DiffusionPipeline.from_pretrained(tmp_path / "merged", local_files_only=True)
    expected = trained.state_dict()
    assert found.transformer.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.transformer.state_dict().items())
    capsys.readouterr()
