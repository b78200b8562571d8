"""A checkpoint or a run in the place of an adapter: which one is meant, and what is said of none."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
import yaml
from diffusers import SD3Transformer2DModel
from hydra import compose, initialize_config_dir
from peft import PeftModel
from safetensors.torch import save_file

from diffopd import sample
from diffopd.adapter.location import WEIGHTS
from diffopd.callbacks import AdapterExport
from diffopd.checkpoint import latest_valid_checkpoint, write_checkpoint
from diffopd.checkpoint.folder import STATE
from diffopd.config.folder import config_folder
from diffopd.evaluate.settings import evaluation_id, register_evaluation_id, taken_adapter
from diffopd.files.names import ADAPTER_CONFIG
from diffopd.run import trained
from diffopd.run.trained import adapter_of, run_of
from support.slow import slow_but


def save_checkpoint(folder, *, adapter=True):
    def write(part):
        part.mkdir()
        (part / ADAPTER_CONFIG).write_text("{}")
        save_file({"lora": torch.ones(2)}, part / WEIGHTS)

    return write_checkpoint({"w": torch.ones(1)}, folder, {"adapter": write} if adapter else {})


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints after 10 and 20 rounds, not finished."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {
        "paths": {"run": str(tmp_path / "where it was")},
        "callbacks": {
            "saving": {
                "_target_": "diffopd.callbacks.RoundCheckpoint",
                "folder": str(tmp_path / "where it was" / "states"),
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    for number in (10, 20):
        save_checkpoint(folder / "states" / f"round_{number:06d}")
    return folder


def export(run, *, finished):
    (run / "adapter").mkdir()
    (run / "adapter" / ADAPTER_CONFIG).write_text("{}")
    if finished:
        (run / "finished.json").write_text(json.dumps({"max_rounds": 30, "recipe": {}}))


def test_anything_else_is_returned_as_it_is(tmp_path):
    (tmp_path / "adapter").mkdir()
    for name in (ADAPTER_CONFIG, "config.yaml"):  # an adapter with a config beside it is no run
        (tmp_path / "adapter" / name).write_text("{}")
    paths = [str(tmp_path / "adapter"), str(tmp_path / "absent"), "someone/adapter@v1"]
    paths.append("package://assets/teachers/ocr")
    assert [adapter_of(path, setting="adapter") for path in paths] == paths


def test_a_folder_of_runs_names_them(run):
    with pytest.raises(ValueError, match=rf"holds runs; name one of them: .*/{run.name}$"):
        adapter_of(run.parent, setting="adapter")


def test_a_checkpoint_stands_for_its_adapter(run):
    checkpoint = run / "states" / "round_000010"
    assert adapter_of(checkpoint, setting="adapter") == str(checkpoint / "adapter")
    assert run_of(checkpoint) == run


def test_a_finished_run_stands_for_what_it_exported(run):
    export(run, finished=True)
    assert adapter_of(run, setting="adapter") == str(run / "adapter")


def test_a_run_in_training_stands_for_its_newest_intact_checkpoint(run, caplog):
    newest = run / "states" / "round_000020"
    with caplog.at_level(logging.INFO):
        assert adapter_of(run, setting="adapter") == str(newest / "adapter")
    assert f"the adapter of its newest checkpoint is taken: {newest}" in caplog.text
    export(run, finished=False)  # of an earlier end, after fewer rounds
    assert adapter_of(run, setting="adapter") == str(newest / "adapter")
    (newest / "adapter" / WEIGHTS).write_bytes(b"damaged")
    assert adapter_of(run, setting="adapter") == str(run / "states" / "round_000010" / "adapter")


def test_what_was_exported_counts_where_no_checkpoint_has_an_adapter(run):
    save_checkpoint(run / "states" / "round_000030", adapter=False)
    export(run, finished=False)
    assert adapter_of(run, setting="adapter") == str(run / "adapter")


def test_a_checkpoint_without_an_adapter_says_what_to_do(run):
    old = save_checkpoint(run / "states" / "round_000030", adapter=False)
    for path in (old, run):
        with pytest.raises(ValueError, match="a checkpoint without an adapter") as error:
            adapter_of(path, setting="adapter")
        assert f"adapter={path}" in str(error.value)
        for advice in (
            "an earlier version",
            "Repeat the run's command",
            "trainer.max_epochs=30 trains nothing",
        ):
            assert advice in str(error.value)


def test_a_damaged_checkpoint_is_no_adapter(run):
    checkpoint = run / "states" / "round_000020"
    (checkpoint / STATE).write_text("{}")
    with pytest.raises(ValueError, match=r"adapter=.*round_000020: .*state\.json is not what was written"):
        adapter_of(checkpoint, setting="adapter")


def test_runs_without_anything_trained_say_so(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match=r"neither an adapter nor a checkpoint yet .*every_n_rounds"):
        adapter_of(tmp_path, setting="adapter")
    (tmp_path / "pipeline").mkdir()
    with pytest.raises(ValueError, match=r"trained a whole pipeline, no adapter; give model\.path="):
        adapter_of(tmp_path, setting="adapter")


def test_an_evaluation_of_a_run_is_named_after_the_adapter_that_is_taken(run):
    register_evaluation_id()

    def name(path):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            cfg = compose("evaluate", overrides=[f"adapter_path={path}"])
        return evaluation_id(_root_=cfg)

    first = name(run)
    assert first == name(run / "states" / "round_000020") == name(run / "states" / "round_000020" / "adapter")
    assert first.startswith("states_round_000020_adapter_")
    save_checkpoint(run / "states" / "round_000030")
    assert name(run) != first


def test_a_checkpoint_is_verified_once_for_its_name_and_its_evaluation(run, monkeypatch):
    """An evaluation is of what its folder is named after, and a large checkpoint is read once."""
    verified = []
    monkeypatch.setattr(trained, "verify_checkpoint", verified.append)
    register_evaluation_id()
    checkpoint = run / "states" / "round_000010"
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("evaluate", overrides=[f"adapter_path={checkpoint}"])
    name = cfg.run_id
    copied = copy.deepcopy(cfg)  # as Hydra hands it on
    taken = taken_adapter(copied, copied.adapter_path)
    copied.adapter_path = taken
    assert (taken, copied.run_id) == (str(checkpoint / "adapter"), name)
    assert verified == [checkpoint]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert compose("evaluate", overrides=[f"adapter_path={checkpoint}"]).run_id == name
    assert verified == [checkpoint, checkpoint]  # another config looks again


@pytest.mark.parametrize("adapter", slow_but(["average", "student"], "average"))
def test_each_checkpoint_has_the_adapter_that_the_run_would_export(world, tmp_path, adapter):
    settings = ("~report", "phase.ema.decay=0.5", "phase.ema.update_interval=1", "sampler.num_steps=4")
    choice = f"callbacks.adapter_export.adapter={adapter}"
    experiment = world.build("mopd_ode", tmp_path / "run", *settings, choice)
    experiment.run()
    run = tmp_path / "run"
    last = latest_valid_checkpoint(run / "checkpoints")
    assert last.name == "round_000002"
    for name in (ADAPTER_CONFIG, WEIGHTS):
        assert (last / "adapter" / name).read_bytes() == (run / "adapter" / name).read_bytes()
    first = run / "checkpoints" / "round_000001" / "adapter" / WEIGHTS
    assert first.read_bytes() != (run / "adapter" / WEIGHTS).read_bytes()

    stock = SD3Transformer2DModel.from_pretrained(world.pipeline / "transformer")
    loaded = PeftModel.from_pretrained(stock, str(last / "adapter"))  # PEFT as it is, nothing of ours
    generator = torch.Generator().manual_seed(0)
    model = experiment.phase.model
    latent = torch.randn(2, *model.latent_shape, generator=generator)
    conditioning, sigma = model.encode(["a", "b"]), torch.tensor([0.8, 0.3])
    with torch.no_grad():
        theirs = loaded(latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
        ours = model.velocity(latent, sigma, conditioning, adapter)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


FEW = ("~report", "sampler.num_steps=3", "phase.num_timesteps=2", "phase.updates_per_round=1")


def test_sample_draws_with_a_checkpoint_and_with_a_run(world, tmp_path):
    run = tmp_path / "run"
    world.build("teacher_aesthetic", run, *FEW, "phase.ema.decay=0.5").run()
    checkpoint = run / "checkpoints" / "round_000001"
    pictures = {}
    for name, path in {
        "run": run,
        "final": run / "adapter",
        "checkpoint": checkpoint,
        "its adapter": checkpoint / "adapter",
    }.items():
        settings = [f"model.path={world.pipeline}", "device=cpu", "prompt=a cat", "sampler.num_steps=2"]
        folder = tmp_path / name
        with initialize_config_dir(config_folder(), version_base="1.3"):
            sample.run(
                compose("sample", overrides=[*settings, f"adapter_path={path}", f"paths.run='{folder}'"])
            )
        pictures[name] = (folder / "000.png").read_bytes()
    assert pictures["run"] == pictures["final"]
    assert pictures["checkpoint"] == pictures["its adapter"]


def test_a_run_without_the_export_has_checkpoints_without_an_adapter(world, tmp_path):
    run = world.build("teacher_aesthetic", tmp_path / "run", *FEW, "~callbacks.adapter_export")
    assert not [c for c in run.trainer.callbacks if isinstance(c, AdapterExport)]
    run.run()
    with pytest.raises(ValueError, match="a checkpoint without an adapter"):
        adapter_of(tmp_path / "run", setting="adapter")
