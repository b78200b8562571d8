"""Scripted rewards: when the guard acts, what it puts back, and that a resumed run does the same."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback
from safetensors.torch import load_file

from diffopd.adapter.layout import PREFIX
from diffopd.callbacks import RewardGuard, RoundCheckpoint
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.checkpoint import encode_tree, latest_valid_checkpoint, read_checkpoint
from diffopd.types import Scores

RISING = (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4)
FALLING = (0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2)


def guard(**settings):
    """Two rounds an evaluation, two comparisons in a row: acts after round 6 at the earliest."""
    usual = {
        "action": "warn",
        "trained": ["train/reward/signs"],
        "watched": ["train/held_out/*"],
        "rounds_per_evaluation": 2,
        "min_rise": 0.05,
        "min_fall": 0.05,
        "patience": 2,
    }
    return RewardGuard(**(usual | settings))


def checkpoints(folder):
    return RoundCheckpoint(folder=str(folder), every_n_rounds=1, keep_last=99, keep_every_n_rounds=None)


@pytest.fixture
def scripted(tiny_phase):
    """``scripted(reward, **held_out)``: two adapters, and each value logged in its round; None logs none."""

    class Scripted(tiny_phase):
        def __init__(self, reward=RISING, **held_out):
            super().__init__()
            self.script = {"train/reward/signs": reward} | {
                f"train/held_out/{name}": values for name, values in (held_out or {"x": FALLING}).items()
            }
            self.average = torch.nn.Linear(8, 1).requires_grad_(False)

        @property
        def policies(self):
            held = {"student": self.adapter, "average": self.average}
            return {
                name: SimpleNamespace(weights=lambda part=part: dict(part.named_parameters()))
                for name, part in held.items()
            }

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            with torch.no_grad():
                for name, value in self.policies["average"].weights().items():
                    value.lerp_(self.policies["student"].weights()[name], 0.5)
            for name, values in self.script.items():
                if (value := values[self.current_epoch]) is not None:
                    self.log(name, value, batch_size=4)
            return loss

    return Scripted


class Follow(Callback):
    """Keeps all adapters as they are after every round, before any other callback."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(adapters_of(pl_module))


def adapters_of(phase):
    return {
        f"{adapter}.{name}": value.detach().clone()
        for adapter in phase.policies
        for name, value in phase.policies[adapter].weights().items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_warns_at_each_further_suspicious_evaluation_and_goes_on(fit, scripted, caplog):
    phase = scripted()
    fit(phase, [guard()], 8)
    assert len(phase.losses) == 8
    warnings = [r.getMessage() for r in caplog.records if r.name == "diffopd.callbacks.reward_guard"]
    first, second = warnings
    assert first.splitlines()[:4] == [
        "reward hacking? From rounds 1-2 to rounds 5-6, in means over the rounds:",
        "  train/reward/signs rose from 0.1 to 0.3 (0.1 -> 0.2 -> 0.3)",
        "  train/held_out/x fell from 0.8 to 0.4 (0.8 -> 0.6 -> 0.4)",
        "The run continues.",
    ]
    assert "loss.kl_weight" in first
    assert "From rounds 3-4 to rounds 7-8" in second


def test_rounds_are_averaged_before_they_are_compared(fit, scripted, caplog):
    """Single rounds swing: from every round to the next but one the reward rises and the other falls."""
    swinging = (0.0, 0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5)
    fit(scripted(reward=swinging, x=swinging[::-1]), [guard()], 8)
    assert "reward hacking?" not in caplog.text


def test_a_fall_that_pauses_begins_anew(fit, scripted, caplog):
    phase = scripted(x=(0.8, 0.8, 0.6, 0.6, 0.6, 0.6, 0.4, 0.4), y=(0.8, 0.8, 0.8, 0.8, 0.6, 0.6, 0.6, 0.6))
    fit(phase, [guard(action="stop")], 8)
    assert len(phase.losses) == 8
    assert "reward hacking?" not in caplog.text


def test_a_stop_is_saved_and_no_interruption(fit, scripted, tmp_path, caplog):
    phase, follow = scripted(), Follow()
    saving = RoundCheckpoint(folder=str(tmp_path), every_n_rounds=100, keep_last=1, keep_every_n_rounds=None)
    fit(phase, [saving, guard(action="stop"), follow], 8)  # Lightning calls checkpoints last in any order
    assert len(phase.losses) == 6
    assert not saving.interrupted
    assert equal(adapters_of(phase), follow.after[5])
    assert [path.name for path in tmp_path.iterdir()] == ["round_000006"]
    assert "The run stops. To continue anyway, repeat the command" in caplog.text


def test_a_roll_back_puts_every_adapter_back_and_is_what_is_saved(fit, scripted, tmp_path, caplog):
    phase, follow, export = scripted(), Follow(), Export()
    trainer = fit(phase, [export, guard(action="roll_back"), checkpoints(tmp_path), follow], 8)
    assert len(phase.losses) == 6
    assert not equal(follow.after[1], follow.after[5])
    assert equal(adapters_of(phase), follow.after[1])
    assert equal(export.exported, follow.after[1])
    assert not trainer.optimizers[0].state
    saved = read_checkpoint(tmp_path / "round_000006")
    assert torch.equal(saved["state_dict"]["adapter.weight"], follow.after[1]["student.weight"])
    assert torch.equal(saved["state_dict"]["average.weight"], follow.after[1]["average.weight"])
    assert "The run stops, and its adapters are restored to those of round 2." in caplog.text


class Export(Callback):
    """Stands for AdapterExport: notes the adapters when training ends."""

    def __init__(self):
        self.exported = {}

    def on_train_end(self, trainer, pl_module):
        self.exported = adapters_of(pl_module)


def test_a_roll_back_goes_to_before_the_fall_that_was_long_enough(fit, scripted):
    """x falls once and recovers; y's fall begins an evaluation later and lasts."""
    x = (0.8, 0.8, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8)
    y = (0.8, 0.8, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4)
    phase, follow = scripted(x=x, y=y), Follow()
    fit(phase, [guard(action="roll_back"), follow], 8)
    assert len(phase.losses) == 8
    assert equal(adapters_of(phase), follow.after[3])


def test_copies_are_kept_only_from_where_a_fall_under_way_began(fit, scripted, tmp_path):
    x = (0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.4, 0.4)
    y = (0.8, 0.8, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4)
    fit(scripted(x=x, y=y), [guard(action="roll_back", patience=3), checkpoints(tmp_path)], 8)
    kept = {
        n: list(read_checkpoint(path)["callbacks"]["RewardGuard"]["copies"]) for n, path in saved(tmp_path)
    }
    # Evaluations end with rounds 2, 4, 6, 8; the fall of x begins after round 2, that of y after round 4.
    assert kept == {1: [], 2: [2], 3: [2], 4: [2, 4], 5: [2, 4], 6: [2, 4, 6], 7: [2, 4, 6], 8: [4, 8]}
    fit(scripted(), [guard(), checkpoints(tmp_path / "warn")], 5)
    assert read_checkpoint(tmp_path / "warn" / "round_000005")["callbacks"]["RewardGuard"]["copies"] == {}


def saved(folder):
    return [(int(path.name[-6:]), path) for path in sorted(folder.glob("round_*"))]


@pytest.mark.parametrize("action", ["warn", "roll_back"])
@pytest.mark.parametrize("cut", [1, 3, 4, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(fit, scripted, tmp_path, caplog, action, cut):
    def run(folder, *lengths):
        caplog.clear()
        for rounds in lengths:
            latest = latest_valid_checkpoint(folder)
            fit(scripted(), [guard(action=action), checkpoints(folder)], rounds, ckpt_path=latest)
        return [r.getMessage() for r in caplog.records if r.name == "diffopd.callbacks.reward_guard"]

    expected = run(tmp_path / "whole", 8)
    assert run(tmp_path / "cut", cut, 8) == expected
    assert len(expected) == (2 if action == "warn" else 1)
    whole, resumed = saved(tmp_path / "whole"), saved(tmp_path / "cut")
    assert len(whole) == len(resumed) == (8 if action == "warn" else 6)
    for (_, a), (_, b) in zip(whole, resumed, strict=True):
        (numbers, tensors), (found_numbers, found_tensors) = (encode_tree(read_checkpoint(p)) for p in (a, b))
        assert found_numbers == numbers
        assert equal(found_tensors, tensors)


@pytest.mark.parametrize("cut", [None, 2, 3])
def test_a_round_counts_for_the_metrics_it_logs(fit, scripted, tmp_path, cut):
    """Tasks in turn: in a round of another task Lightning still shows a task's last value."""
    in_turn = {"x": (0.75, None, None, 0.5, 0.25, 0.125), "y": (0.25, 0.5, 0.75, None, None, 1.0)}
    for rounds in (cut, 6) if cut else (6,):
        latest = latest_valid_checkpoint(tmp_path)
        fit(scripted(**in_turn), [guard(), checkpoints(tmp_path)], rounds, ckpt_path=latest)
    state = read_checkpoint(tmp_path / "round_000006")["callbacks"]["RewardGuard"]
    means = [(e["means"]["train/held_out/x"], e["means"]["train/held_out/y"]) for e in state["evaluations"]]
    assert means == [(0.75, 0.375), (0.5, 0.75), (0.1875, 1.0)]


@pytest.mark.parametrize("action", ["stop", "roll_back"])
def test_a_stopped_run_stays_stopped_until_the_settings_change(fit, scripted, tmp_path, caplog, action):
    fit(scripted(), [guard(action=action), checkpoints(tmp_path)], 8)
    stopped = tmp_path / "round_000006"
    left = read_checkpoint(stopped)["state_dict"]["adapter.weight"]

    again, export = scripted(), Export()
    trainer = fit(again, [guard(action=action), export, checkpoints(tmp_path)], 8, ckpt_path=stopped)
    assert again.losses == []
    assert trainer.current_epoch == 6
    assert torch.equal(export.exported["student.weight"], left)
    assert (
        "callbacks.reward_guard stopped this run after round 6; nothing is trained. To continue"
        in caplog.text
    )

    on, follow = scripted(), Follow()
    fit(on, [guard(action="warn"), follow, checkpoints(tmp_path)], 8, ckpt_path=stopped)
    assert len(on.losses) == 2
    assert all(torch.isfinite(value).all() for value in follow.after[-1].values())
    assert not torch.equal(follow.after[-1]["student.weight"], left)
    assert len(read_checkpoint(tmp_path / "round_000008")["callbacks"]["RewardGuard"]["evaluations"]) == 1


@pytest.mark.parametrize("name", ["trained", "watched"])
def test_a_pattern_without_a_metric_stops_the_first_round(fit, scripted, tmp_path, name):
    phase = scripted()
    with pytest.raises(
        ValueError, match=rf"callbacks\.reward_guard\.{name}: no logged metric matches train/y"
    ):
        fit(phase, [guard(**{name: ["train/y/*"]}), checkpoints(tmp_path)], 8)
    assert len(phase.losses) == 1
    assert saved(tmp_path) == []


def test_a_roll_back_needs_adapters(fit, tiny_phase):
    with pytest.raises(ValueError, match=r"action=roll_back restores adapters, but TinyPhase trains none"):
        fit(tiny_phase(), [guard(action="roll_back")], 1)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "halt"}, "action must be one of warn, stop, roll_back, got halt"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"rounds_per_evaluation": 0}, "rounds_per_evaluation must be at least 1, got 0"),
        ({"min_fall": -1.0}, "min_fall must be a finite number of at least 0, got -1.0"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(f"callbacks.reward_guard.{message}")):
        guard(**settings)


# On the command line, and in a real training.


@pytest.fixture
def composed(conf_dir, tmp_path):
    def compose_with(*overrides):
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            return compose(
                "train", overrides=["+experiment=teacher_ocr", f"paths.run={tmp_path}", *overrides]
            )

    return compose_with


def test_it_is_added_to_the_others_by_a_list(composed):
    usual = set(composed().callbacks)
    cfg = composed("callbacks=[default,reward_guard]", "callbacks.reward_guard.action=roll_back")
    assert set(cfg.callbacks) == usual | {"reward_guard"}
    assert instantiate(cfg.callbacks.reward_guard).action == "roll_back"
    assert list(setting_problems(plain_values(cfg), "train")) == []
    assert set(composed("callbacks=minimal").callbacks) == {"finite_loss"}


def test_an_action_that_is_unknown_is_refused_with_the_nearest(composed):
    cfg = composed("callbacks=[default,reward_guard]", "callbacks.reward_guard.action=rollback")
    (problem,) = setting_problems(plain_values(cfg), "train")
    assert problem == (
        "callbacks.reward_guard.action=rollback must be one of warn, stop, roll_back; did you mean roll_back?"
    )


def test_a_rolled_back_teacher_is_exported_as_it_was_and_reported(world, tmp_path):
    settings = ("callbacks=[default,reward_guard]", "trainer.max_epochs=6", "sampler.num_steps=3")
    settings += ("phase.num_timesteps=2", "phase.updates_per_round=1")
    of_guard = {"action": "roll_back", "rounds_per_evaluation": 1, "patience": 2}
    overrides = [f"callbacks.reward_guard.{name}={value}" for name, value in of_guard.items()]
    experiment = world.build("teacher_aesthetic", tmp_path, *settings, *overrides)
    phase, follow, reports = experiment.phase, Follow(), []
    experiment.trainer.callbacks.insert(0, follow)
    true_reward = phase.reward

    def rising(images, prompts):
        scores = true_reward(images, prompts)
        return dataclasses.replace(scores, value=scores.value + phase.round)

    def falling(images, prompts):
        return Scores(torch.full((len(prompts),), -float(phase.round)), {}, "falls")

    phase.reward, phase.held_out = rising, {"scripted": falling}
    dataclasses.replace(experiment, report=lambda *_: reports.append(adapters_of(phase))).run()

    assert len(follow.after) == 3
    kept = follow.after[0]
    assert list(phase.policies) == ["student", "average", "old"]
    assert not equal(kept, follow.after[2])
    assert equal(adapters_of(phase), kept)
    assert len(reports) == 1
    assert equal(reports[0], kept)
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    average = {name.removeprefix("average."): v for name, v in kept.items() if name.startswith("average.")}
    scale = phase.adapter.alpha / phase.adapter.rank  # which the file has in its factors B
    written = {name: scale * value if ".lora_B." in name else value for name, value in average.items()}
    assert equal(exported, {PREFIX + name: value for name, value in written.items()})


SCRIPT = """
import importlib.util, sys
from types import SimpleNamespace
import torch
from lightning.pytorch import Trainer
from diffopd.callbacks import RewardGuard, RoundCheckpoint
from diffopd.checkpoint import SafetensorsCheckpointIO

conftest, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("tiny", conftest)
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

class Scripted(tiny.TinyPhase):
    @property
    def policies(self):
        return {"student": SimpleNamespace(weights=lambda: dict(self.adapter.named_parameters()))}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        rank, i = self.global_rank, self.current_epoch
        # The mean over both processes rises by 1 a round, that of the first alone does not.
        self.log("train/reward/signs", 2.0 * i * rank, on_step=False, on_epoch=True, sync_dist=True)
        # Not averaged, and only the first process sees it fall.
        self.log("train/held_out/x", float(i * (2 * rank - 1)), on_step=False, on_epoch=True)
        return loss

phase = Scripted()
guard = RewardGuard(
    action="roll_back", trained=["train/reward/signs"], watched=["train/held_out/x"], rounds_per_evaluation=1,
    min_rise=1.0, min_fall=1.0, patience=2,
)
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=6, logger=False,
    callbacks=[
        guard, RoundCheckpoint(folder=folder, every_n_rounds=1, keep_last=9, keep_every_n_rounds=None)
    ],
    plugins=[SafetensorsCheckpointIO()], enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, default_root_dir=folder,
)
trainer.fit(phase)
assert len(phase.losses) == 3, phase.losses
torch.save(phase.adapter.weight.detach(), f"{folder}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_decide_alike(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    folder.mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        [sys.executable, script, Path(__file__).with_name("conftest.py"), folder],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr.count("reward hacking?") == 1
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in (0, 1))
    kept = read_checkpoint(folder / "round_000001")["state_dict"]["adapter.weight"]
    later = read_checkpoint(folder / "round_000002")["state_dict"]["adapter.weight"]
    assert torch.equal(first, kept)
    assert torch.equal(second, kept)
    assert not torch.equal(later, kept)
