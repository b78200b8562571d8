"""The config that a run saves makes the same run again, bit for bit, in a folder of its own."""

from __future__ import annotations

import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors.torch import load_file

from diffopd import train
from diffopd.config.saved import from_arguments

pytestmark = pytest.mark.usefixtures("no_hydra_traces")


@pytest.mark.slow
def test_a_run_is_repeated_from_its_saved_config(world, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        train.main()
        GlobalHydra.instance().clear()

    settings = [*world.overrides("mopd_ode"), "optimizer.lr=7e-3", "sampler.num_steps=4", "~report", "seed=3"]
    settings.append("trainer.max_epochs=1")
    run("+experiment=mopd_ode", *settings)
    first = tmp_path / "runs" / "mopd_ode" / "seed3"
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*") if file.is_file()}
    run(f"from={first.relative_to(tmp_path)}", "run_id=again")
    again = tmp_path / "runs" / "mopd_ode" / "again"
    assert before == {file: file.stat().st_mtime_ns for file in first.rglob("*") if file.is_file()}
    for name in ("adapter/adapter_model.safetensors", "checkpoints/round_000001/tensors.safetensors"):
        one, two = load_file(first / name), load_file(again / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    saved = OmegaConf.to_container(OmegaConf.load(again / "config.yaml"))
    assert saved["optimizer"]["lr"] == 7e-3
    assert saved["callbacks"]["adapter_export"]["peft_folder"] == str(again / "adapter")

    with pytest.raises(SystemExit) as end:
        run(f"from={first}", "run_id=other", "optimizer.lrr=1")
    assert end.value.code == 2
    assert "optimizer.lrr is not a setting of optimizer; did you mean optimizer.lr?" in capfd.readouterr().err


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(ValueError, match=r"^from=.*: there is no .*config.yaml; give the folder of a run"):
        from_arguments([f"from={tmp_path}"])
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"is not the config of a run"):
        from_arguments([f"from={tmp_path}"])
    assert from_arguments(["seed=1"]) == ["seed=1"]
