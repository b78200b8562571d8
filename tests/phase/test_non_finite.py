"""Losses, gradients and rewards that are nan: reported with their samples, saved, dropped, done again."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffopd.build.experiment import build
from diffopd.checkpoint import encode_tree, latest_valid_checkpoint, read_checkpoint
from diffopd.non_finite import NonFiniteError, find_report
from diffopd.non_finite.replay import replay
from diffopd.non_finite.report import Report, write_report
from support.tiny_runs import run_rounds

SOURCE = Path(__file__).parents[2] / "src"
SKIP = ("callbacks.finite_loss.action=skip",)
PHASES = {
    "distill": ("mopd_sde", ("sampler.num_steps=4",)),
    "two_pass": ("mopd_sde", ("phase.round=two_pass", "phase.updates_per_round=2")),
    "nft": (
        "teacher_aesthetic",
        ("sampler.num_steps=4", "phase.num_timesteps=2", "phase.updates_per_round=2"),
    ),
    "grpo": ("guard_aesthetic", ("phase.updates_per_round=2",)),
    "dmd": ("mopd_dmd", ("phase.fake_updates_per_round=1",)),
    "sft": ("mopd_sft", ()),
}


def break_loss(phase, *, in_round, sample, update=0):
    """The loss of one sample is nan, in one update of one round."""
    add = phase.add_gradient

    def add_gradient(losses, prompts, steps):
        if phase.round == in_round and phase.record.update == update and sample in prompts.indices:
            factor = torch.ones_like(losses)
            factor[prompts.indices.index(sample)] = math.nan
            losses = losses * factor
        return add(losses, prompts, steps)

    phase.add_gradient = add_gradient


def break_gradient(phase, *, in_round):
    """A backward that overflows although every loss is finite."""
    add = phase.add_gradient

    def add_gradient(losses, prompts, steps):
        loss = add(losses, prompts, steps)
        if phase.round == in_round and not phase.record.entries[1:]:
            next(iter(phase.policies["student"].weights().values())).grad[0, 0] = math.inf
            entry = phase.record.entries.pop()
            phase.record.add(entry.losses, prompts, steps, phase.policies["student"].weights().values())
        return loss

    phase.add_gradient = add_gradient


def built(world, folder, name, *overrides):
    experiment, settings = PHASES[name]
    return world.build(experiment, folder, *settings, *overrides)


def built_again(world, folder, name):
    """Without anything that watches or logs."""
    experiment, settings = PHASES[name]
    cfg = world.config(experiment, folder, *settings)
    cfg.callbacks, cfg.logger = {}, {}
    return build(cfg)


def trained(folder, round_number):
    """Weights, averages and optimiser state after a round."""
    state = read_checkpoint(folder / "checkpoints" / f"round_{round_number:06d}")
    return encode_tree({key: state[key] for key in ("state_dict", "optimizer_states")})[1]


@pytest.mark.parametrize(
    "name",
    [
        "nft",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("distill", "two_pass", "grpo", "dmd", "sft")),
    ],
)
def test_a_nan_loss_stops_before_the_update_with_its_sample_and_can_be_done_again(world, tmp_path, name):
    experiment = built(world, tmp_path, name)
    update = experiment.phase.updates_in_round - 1 if name in ("two_pass", "grpo", "nft") else 0
    sample = experiment.data.batch(1).indices[1]
    break_loss(experiment.phase, in_round=1, sample=sample, update=update)
    with pytest.raises(NonFiniteError) as caught:
        experiment.fit()
    assert latest_valid_checkpoint(tmp_path / "checkpoints").name == "round_000001"
    report, state = find_report(tmp_path)
    assert (report.what, report.round, report.update) == ("loss", 2, update)
    assert report.seed == 0
    assert {suspect.index for suspect in report.suspects} == {sample}
    row = experiment.data.batch(1).indices.index(sample)
    expected = (experiment.data.batch(1).tasks[row], experiment.data.batch(1).texts[row], "nan")
    assert {(s.task, s.prompt, s.loss) for s in report.suspects} == {expected}
    steps = {suspect.step for suspect in report.suspects}
    assert steps == {None} if name == "sft" else steps <= set(range(10))
    shown = str(caught.value)
    assert f"{type(experiment.phase).__name__}: the gradient's norm is nan in round 2" in shown
    assert f"sample {sample} (task '{expected[0]}', prompt {expected[1]!r}" in shown
    assert f"python -m diffopd.replay run={tmp_path}" in shown
    assert json.loads((tmp_path / "non_finite" / "round_000002" / "report.json").read_text())["suspects"]

    again = built_again(world, tmp_path / "again", name)
    losses = []
    break_loss(again.phase, in_round=1, sample=sample, update=update)
    add = again.phase.add_gradient
    again.phase.add_gradient = lambda *given: losses.append(add(*given)) or losses[-1]
    found = replay(again.trainer, again.phase, again.data, report, state)
    assert found is not None
    assert found.suspects == tuple(report.suspects)
    assert losses

    fine = built_again(world, tmp_path / "fine", name)
    assert replay(fine.trainer, fine.phase, fine.data, report, state) is None


@pytest.mark.slow
def test_a_replay_sees_the_losses_of_the_round_bit_for_bit(world, tmp_path):
    """Also of a later update of the round, whose rollout was made with earlier weights."""
    experiment = built(world, tmp_path, "two_pass")
    seen = {}

    def watch(phase, into):
        add = phase.add_gradient

        def add_gradient(losses, prompts, steps):
            if phase.round == 1:
                into.setdefault((phase.record.update, steps), losses.detach().clone())
            return add(losses, prompts, steps)

        phase.add_gradient = add_gradient

    break_loss(experiment.phase, in_round=1, sample=0, update=1)
    watch(experiment.phase, seen)
    with pytest.raises(NonFiniteError):
        experiment.fit()
    again = built_again(world, tmp_path / "again", "two_pass")
    repeated = {}
    watch(again.phase, repeated)
    assert replay(again.trainer, again.phase, again.data, *find_report(tmp_path)) is None
    late = [key for key in seen if key[0] == 1]
    assert len(late) == 9
    assert all(seen[key].equal(repeated[key]) for key in late)


def test_a_gradient_that_overflows_is_traced_to_where_it_did(world, tmp_path):
    experiment = built(world, tmp_path, "nft")
    break_gradient(experiment.phase, in_round=0)
    with pytest.raises(NonFiniteError, match=r"NFTPhase: the gradient's norm is (inf|nan) in round 1, "):
        experiment.fit()
    report, _ = find_report(tmp_path)
    assert report.what == "gradient"
    assert len(report.suspects) == 6  # all rows of the first backward
    assert all(math.isfinite(float(suspect.loss)) for suspect in report.suspects)
    assert latest_valid_checkpoint(tmp_path / "checkpoints") is None


class NaNForOne:
    """A reward without a score for sample 1 in the second round."""

    def __init__(self, phase):
        self.phase = phase

    def __call__(self, images, prompts):
        value = images.mean((1, 2, 3))
        if self.phase.round == 1:
            value[[index == 1 for index in prompts.indices]] = math.nan
        return value


def test_a_nan_reward_is_reported_and_saved_alike(world, tmp_path):
    experiment = built(world, tmp_path, "nft")
    experiment.phase.reward = NaNForOne(experiment.phase)
    with pytest.raises(NonFiniteError, match=r"reward \(NaNForOne\) returned 'value' = nan for sample 1"):
        experiment.fit()
    report, state = find_report(tmp_path)
    assert (report.what, report.round, [suspect.index for suspect in report.suspects]) == ("reward", 2, [1])
    assert (tmp_path / "failed_reward" / "round_000002_aesthetic_00001.png").is_file()
    again = built_again(world, tmp_path / "again", "nft")
    again.phase.reward = NaNForOne(again.phase)
    found = replay(again.trainer, again.phase, again.data, report, state)
    assert found is not None
    assert "for sample 1" in str(found)


@pytest.mark.parametrize("name", ["distill", pytest.param("nft", marks=pytest.mark.slow)])
def test_skip_drops_the_update_and_goes_on_the_same_way_each_time(world, tmp_path, caplog, name):
    def run(folder):
        experiment = built(
            world, folder, name, *SKIP, "trainer.max_epochs=3", "callbacks.round_checkpoint.keep_last=3"
        )
        break_loss(experiment.phase, in_round=1, sample=experiment.data.batch(1).indices[0])
        with caplog.at_level(logging.WARNING):
            return run_rounds(experiment)

    first, second = run(tmp_path / "one"), run(tmp_path / "two")
    assert "the run continues; dropped 1, at most 5" in caplog.text
    one, skipped, last = (trained(tmp_path / "one", number) for number in (1, 2, 3))
    assert all(one[key].equal(skipped[key]) for key in one), "the dropped round changes nothing"
    assert not all(skipped[key].equal(last[key]) for key in last), "the next one does"
    again = trained(tmp_path / "two", 3)
    assert all(last[key].equal(again[key]) for key in last)
    assert first.metrics == second.metrics
    assert first.metrics["train/skipped_updates"] == 1
    assert all(map(math.isfinite, first.metrics.values()))


@pytest.mark.slow
def test_a_nan_reward_can_be_skipped(world, tmp_path):
    experiment = built(world, tmp_path, "nft", *SKIP, "trainer.max_epochs=3")
    experiment.phase.reward = NaNForOne(experiment.phase)
    rounds = run_rounds(experiment)
    assert rounds.metrics["train/skipped_updates"] == 1
    assert len(rounds.gradients) == 4  # two rounds of two updates


@pytest.mark.slow
def test_one_more_than_the_cap_stops_also_after_a_resume(world, tmp_path):
    settings = (*SKIP, "callbacks.finite_loss.max_skipped=1", "trainer.max_epochs=4")
    experiment = built(world, tmp_path, "distill", *settings)
    break_loss(experiment.phase, in_round=0, sample=0)
    break_loss(experiment.phase, in_round=2, sample=0)
    with pytest.raises(
        NonFiniteError, match=r"1 updates were dropped before, the most that max_skipped allows"
    ):
        experiment.fit()
    assert latest_valid_checkpoint(tmp_path / "checkpoints").name == "round_000002"
    assert find_report(tmp_path)[0].round == 3
    assert find_report(tmp_path, 1)[0].round == 1
    resumed = built(world, tmp_path, "distill", *settings)
    break_loss(resumed.phase, in_round=2, sample=0)
    with pytest.raises(NonFiniteError, match="1 updates were dropped before"):
        resumed.fit()


def test_a_run_without_a_report_has_nothing_to_replay(tmp_path):
    with pytest.raises(ValueError, match=r"holds no non_finite report; it has no report"):
        find_report(tmp_path)


def test_a_report_is_what_was_written_or_is_named(tmp_path):
    report = Report(
        phase="p", what="loss", problem="nan", round=2, batch=0, update=0, global_step=7, seed=0,
        suspects=[], metrics={},
    )  # fmt: skip
    folder = write_report(tmp_path, report, {"a": torch.ones(2)})
    (tmp_path / "non_finite" / "round_old").mkdir()  # somebody's copy
    (tmp_path / "non_finite" / "round_old" / "report.json").write_text("{}")
    found, state = find_report(tmp_path)
    assert found == report
    assert state["a"].tolist() == [1, 1]
    text = (folder / "report.json").read_text()
    for damaged in (
        text.replace('"global_step": 7', '"global_step": 6'),
        "",
        "[]",
        text.replace("phase", "phas"),
    ):
        (folder / "report.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"report\.json is damaged"):
            find_report(tmp_path)
    (folder / "report.json").write_text(text)
    (folder / "state" / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"cannot be repeated: .*tensors\.safetensors is not what was written"
    ):
        find_report(tmp_path)


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_phases_that_leave_updates_to_lightning(world, tmp_path, action):
    """The embedded model's own pretraining: looked at between backward and step."""

    def mini(folder):
        experiment = world.build(
            "mini_pretrain", folder, f"callbacks.finite_loss.action={action}", "data.batches_per_round=2"
        )
        step = experiment.phase.training_step

        def training_step(batch, batch_idx):
            loss = step(batch, batch_idx)
            return loss * math.nan if batch.step == 1 else loss

        experiment.phase.training_step = training_step
        return experiment

    experiment = mini(tmp_path)
    before = {}

    def remember(*_):
        before.update({name: p.detach().clone() for name, p in experiment.phase.trained.named_parameters()})

    if action == "skip":
        experiment.phase.on_train_batch_start = remember
        experiment.fit()
        assert experiment.trainer.callback_metrics["train/skipped_updates"] == 1
        changed = [not before[n].equal(p) for n, p in experiment.phase.trained.named_parameters()]
        assert any(changed)
        return
    with pytest.raises(NonFiniteError, match="PretrainPhase: the gradient's norm is nan in round 1"):
        experiment.fit()
    report, state = find_report(tmp_path)
    assert (report.batch, report.global_step) == (1, 1)
    again = mini(tmp_path / "again")
    found = replay(again.trainer, again.phase, again.data, report, state)
    assert found is not None


@pytest.mark.slow
def test_a_nan_reward_in_one_process_is_skipped_by_both(world, tmp_path):
    """Sample 0 is the first process's; the second learns of it, and both go on with the next round."""
    (tmp_path / "sometimes.py").write_text(
        "import torch\n\n\nclass Sometimes:\n    rounds = 0\n\n    def __call__(self, images, prompts):\n"
        "        value = images.mean((1, 2, 3))\n        type(self).rounds += 1\n"
        "        if type(self).rounds == 2 and 0 in prompts.indices:\n            value[:] = torch.nan\n"
        "        return value\n"
    )
    settings = [
        *world.overrides("teacher_aesthetic"),
        *("reward=custom", "reward._target_=sometimes.Sometimes", "trainer=ddp", "trainer.accelerator=cpu"),
        *("trainer.num_threads=1", "phase.num_timesteps=1", "phase.updates_per_round=1", "~report"),
        *("callbacks.finite_loss.action=skip", "trainer.max_epochs=3"),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "diffopd.train", "+experiment=teacher_aesthetic", *settings],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(tmp_path)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    run = tmp_path / "runs" / "teacher_aesthetic" / "seed0"
    report, _ = find_report(run)
    assert (report.what, report.round, report.suspects[0].index) == ("reward", 2, 0)
    state = read_checkpoint(latest_valid_checkpoint(run / "checkpoints"))
    assert state["global_step"] == 2  # of three rounds
