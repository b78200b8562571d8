"""``diffopd.cascade`` as users call it, on the tiny model: adapters carry over, stopping loses nothing."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors.torch import load_file

from diffopd.adapter import WEIGHTS
from diffopd.cascade import cascade_arguments
from diffopd.command.program import INTERRUPTED
from support import copies, programs

SMALL = ("composition", "ocr", "aesthetic")
STOP = "stop_now"
STOPPER = f'''
"""Ask the cascade to end in its second stage, once, and wait until that has come back to us."""
import os, signal, time
from pathlib import Path
from lightning.pytorch import Callback

class StopCascade(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch != 1 or not Path("{STOP}").exists():
            return
        Path("{STOP}").unlink()
        handler = signal.getsignal(signal.SIGTERM)
        os.kill(os.getppid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) is handler:
            time.sleep(0.01)
'''
WITH_STOPPER = "+callbacks.stopper={_target_: stopper.StopCascade}"
STAGES = {"first": "teacher_composition", "second": "teacher_own"}
OWN = """
# @package _global_
defaults:
  - teacher_aesthetic
"""


@pytest.fixture
def cascade(world, tmp_path):
    """``cascade(*arguments, rounds=2, second=(), run=...)`` trains ``STAGES`` in ``tmp_path``."""

    def start(*arguments, rounds=2, second=(), run=copies.run):
        stages = {
            name: {
                "experiment": experiment,
                "overrides": [
                    *world.overrides(experiment.replace("own", "aesthetic")),
                    *(f"benchmark.tasks.{task}.num_prompts=2" for task in SMALL),
                    "benchmark.sampler.num_steps=2",
                    f"trainer.max_epochs={rounds}",
                    *(second if name == "second" else ()),
                ],
            }
            for name, experiment in STAGES.items()
        }
        for group in ("stages", "experiment"):
            (tmp_path / "own" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "experiment" / "teacher_own.yaml").write_text(OWN.lstrip())
        (tmp_path / "own" / "stages" / "tiny.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
        return run(tmp_path, "cascade", "--config-dir", "own", "stages=tiny", *arguments)

    return start


def finished(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_stages_run_once_and_leave_one_adapter_with_one_card(cascade, tmp_path):
    printed = finished(cascade())
    folder = tmp_path / "runs" / "cascade_tiny" / "seed0"
    assert "stage 2 of 2: second, teacher_own" in printed
    assert (folder / "adapter" / WEIGHTS).read_bytes() == (
        folder / "2_second" / "adapter" / WEIGHTS
    ).read_bytes()
    assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
    card = json.loads((folder / "adapter" / "card.json").read_text())
    assert card["task"] == "composition+aesthetic"
    assert card["recipe"]["images"] == card["recipe"]["reward_calls"] == 2 * 2 * 2 * 3  # 2 stages, 2 rounds
    assert (folder / "mini.png").read_bytes().startswith(b"\x89PNG")
    assert "| after second | 1 |" in (folder / "mini.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/**/*.safetensors")}
    assert finished(cascade()).count("already finished") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before

    again = cascade(rounds=3)  # the first stage goes on, so the second's start is another
    assert again.returncode == 2
    assert "stages.second started in" in again.stderr


@pytest.mark.slow
def test_a_cascade_that_was_asked_to_end_goes_on_where_it_was(cascade, tmp_path):
    (tmp_path / "stopper.py").write_text(STOPPER)
    finished(cascade("run_id=whole", rounds=3))
    (tmp_path / STOP).touch()
    cut = cascade("run_id=cut", rounds=3, second=[WITH_STOPPER])
    assert cut.returncode == INTERRUPTED, cut.stderr
    assert (
        "interrupted: stopped by a signal in stage second; start the same command again to resume"
        in cut.stderr
    )
    assert not (tmp_path / STOP).exists()

    assert finished(cascade("run_id=cut", rounds=3, second=[WITH_STOPPER])).count("already finished") == 1
    whole, cut = (
        load_file(tmp_path / "runs" / "cascade_tiny" / run_id / "adapter" / WEIGHTS)
        for run_id in ("whole", "cut")
    )
    assert all(value.equal(cut[key]) for key, value in whole.items())


def test_a_stage_that_cannot_work_is_refused_before_any_is_trained(cascade, tmp_path):
    refused = cascade('stages.second.overrides=["trainer.max_epoch=2"]', run=programs.run)
    assert refused.returncode == 2
    assert "stages.second:" in refused.stderr
    assert not (tmp_path / "runs" / "cascade_tiny" / "seed0" / "1_first").exists()


def test_a_cascade_is_not_begun_by_its_name_alone():
    with pytest.raises(ValueError, match="nothing says what to train; give stages=nft"):
        cascade_arguments([])
    assert cascade_arguments(["stages=nft"]) == ["stages=nft"]
