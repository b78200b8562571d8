"""Files and ports that are not as they should be: each ends in a clear message, and no pickle is loaded."""

from __future__ import annotations

import pickle
import re
import shutil
import socket

import pytest
import torch
from hydra.utils import instantiate

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_config, check_fit, config_errors
from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint, write_checkpoint
from diffopd.checkpoint.folder import MANIFEST, TENSORS
from diffopd.doctor.checks import cheap_findings
from diffopd.doctor.finding import Level
from diffopd.files.fingerprint import sha256_of

ODE = "+experiment=mopd_ode"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def cut(file, kept):
    file.write_bytes(file.read_bytes()[:kept])


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_base_weights_that_are_not_whole(composed, on_disk, tiny, tmp_path, kept):
    base = tmp_path / "base"
    shutil.copytree(tiny.folder, base)
    cut(base / WEIGHTS, kept)
    cfg = composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", f"model.path={base}")
    message = rf"model\.path={base}: {WEIGHTS} \(\d+ bytes\) is not a whole safetensors file: .*copy it again"
    with pytest.raises(ConfigError, match=message):
        build(cfg)


def test_base_weights_that_are_a_pickle(composed, on_disk, tiny, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny.folder, base)
    (base / WEIGHTS).unlink()
    (base / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    cfg = composed(ODE, *on_disk, f"paths.run={tmp_path / 'run'}", f"model.path={base}")
    with pytest.raises(
        ConfigError, match=r"safetensors is missing; diffusion_pytorch_model.bin is a pickle, which can run"
    ):
        build(cfg)


def test_base_weights_under_whose_name_a_pickle_lies(composed, on_disk, tiny, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny.folder, base)
    (base / WEIGHTS).write_bytes(pickle.dumps([Evil(), "x" * 100]))
    with pytest.raises(ConfigError, match=r"is not a whole safetensors file"), config_errors():
        instantiate(composed(ODE, *on_disk, f"model.path={base}").model)


@pytest.mark.parametrize(
    ("kept", "message"),
    [(0, "is empty (0 bytes)"), (-1, "is not a whole safetensors file"), (40, "is not a whole")],
)
def test_teachers_that_are_not_whole(composed, on_disk, teacher_folders, tmp_path, kept, message):
    shutil.copytree(teacher_folders / "ocr", tmp_path / "ocr")
    cut(tmp_path / "ocr" / "adapter_model.safetensors", kept)
    cfg = composed(ODE, *on_disk, f"teacher.teachers.ocr.path={tmp_path / 'ocr'}")
    parts = {"adapter": instantiate(cfg.adapter), "teacher": instantiate(cfg.teacher)}
    expected = (
        rf"teacher\.teachers\.ocr\.path={tmp_path}/ocr.*: adapter_model\.safetensors .*{re.escape(message)}"
    )
    with pytest.raises(ConfigError, match=expected.replace(r"\.safetensors .*is", r"\.safetensors.*is")):
        check_fit(cfg, parts)


def test_a_pickle_in_place_of_a_checkpoint_is_never_loaded(tmp_path, caplog):
    write_checkpoint({"x": torch.ones(3)}, tmp_path / "round_000001")
    write_checkpoint({"x": torch.ones(3)}, tmp_path / "round_000002")
    (tmp_path / "round_000003.ckpt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "round_000004").write_bytes(pickle.dumps(Evil()))
    tensors = tmp_path / "round_000002" / TENSORS
    before = (sha256_of(tensors), tensors.stat().st_size)
    tensors.write_bytes(pickle.dumps([Evil(), "x" * 200]))
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_000001"
    assert "skipping a damaged checkpoint" in caplog.text
    # Even if whoever put it there mended the manifest.
    manifest = tmp_path / "round_000002" / MANIFEST
    text = manifest.read_text().replace(before[0], sha256_of(tensors))
    manifest.write_text(text.replace(f'"bytes": {before[1]}', f'"bytes": {tensors.stat().st_size}'))
    with pytest.raises(Exception, match=r"(?i)header|altered|not what was written"):
        read_checkpoint(tmp_path / "round_000002")


def test_prompts_that_the_encoders_cut_are_warned_of_with_their_number(composed, on_disk, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(["a red barn", *(f"{'red ' * 40}{n}" for n in range(3))]))
    cfg = composed(
        ODE,
        *on_disk,
        f"paths.run={tmp_path / 'run'}",
        f"data.tasks.aesthetic.path={tmp_path / 'prompts.txt'}",
        "reward@reward.rewards.aesthetic=picture_quality",  # its own takes the drawn world's alone
        "model.image_size=16",
        "adapter.target_modules=[attn.to_q,attn.to_v]",
        "trainer.accelerator=cpu",
    )
    experiment = build(cfg)
    found = [f for f in cheap_findings(cfg, experiment.phase) if "3 of 4 prompts of aesthetic" in f.text]
    assert [finding.level for finding in found] == [Level.WARNING]
    assert "are longer than the" in found[0].text


def test_a_port_that_processes_are_to_meet_at(composed, on_disk, monkeypatch):
    two = ("trainer=ddp", "trainer.devices=2")
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(
            ConfigError, match=rf"MASTER_PORT={port}, where 2 processes .*Address already in use"
        ):
            check_config(composed(ODE, *on_disk, *two))
        check_config(composed(ODE, *on_disk))  # a single process does not need it
        monkeypatch.setenv("LOCAL_RANK", "0")  # torchrun holds it
        check_config(composed(ODE, *on_disk, *two))
        monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("MASTER_PORT", "many")
    with pytest.raises(ConfigError, match=r"MASTER_PORT=many must be a port"):
        check_config(composed(ODE, *on_disk, *two))
