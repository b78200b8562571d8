"""A training encodes its prompts before its first round, and a second one encodes none."""

from __future__ import annotations

import pytest
import torch

from support.encoder_calls import recorded_encoder_calls
from support.tiny_runs import FORKED, run_rounds


@pytest.fixture
def calls(monkeypatch):
    """Prompts given to the encoders, call by call."""
    return recorded_encoder_calls(monkeypatch)


@pytest.fixture
def settings(tmp_path):
    """A run of two rounds on three short files of prompts."""
    overrides = [f"model.prompt_cache={tmp_path / 'cache'}", "trainer.max_epochs=2", "sampler.num_steps=3"]
    for task in ("composition", "ocr", "aesthetic"):
        file = tmp_path / f"{task}.txt"
        file.write_text("".join(f"a {task} circle {'x' * number}\n" for number in range(4)))
        overrides.append(f"data.tasks.{task}.path={file}")
    return [
        *overrides,
        "reward=picture_quality",
        "phase.score_every_n_rounds=1",
        "phase.conflict_every_n_rounds=0",
    ]


def test_no_encoder_is_called_after_the_filling_nor_in_a_second_run(world, tmp_path, settings, calls):
    experiment = world.build("mopd_sde", tmp_path / "one", *settings)
    before_rounds = []
    step = experiment.phase.training_step

    def watched(*args):
        before_rounds.append(len(calls))
        return step(*args)

    experiment.phase.training_step = watched
    one = run_rounds(experiment)
    assert before_rounds == [13, 13]  # all of three files of 4 prompts and the empty one, then none
    assert len(calls) == 13
    assert {text for call in calls for text in call} == {"", *experiment.trainer.datamodule.texts_of(2)}
    calls.clear()
    two = run_rounds(world.build("mopd_sde", tmp_path / "two", *settings))
    assert calls == []
    assert torch.equal(one.flat_gradient(-1), two.flat_gradient(-1))


def test_only_the_prompts_of_the_planned_rounds_are_encoded(world, tmp_path, settings, calls):
    run_rounds(world.build("mopd_sde", tmp_path / "one", *settings, "trainer.max_epochs=1"))
    assert len(calls) == 1 + 3 * 2  # the empty one, and 2 of each of three files
    run_rounds(world.build("mopd_sde", tmp_path / "two", *settings))
    assert len(calls) == 1 + 3 * 4


def test_a_changed_prompt_file_has_its_new_prompts_encoded(world, tmp_path, settings, calls):
    run_rounds(world.build("mopd_sde", tmp_path / "one", *settings))
    calls.clear()
    with (tmp_path / "ocr.txt").open("a") as file:
        file.write("a square\n")
    run_rounds(world.build("mopd_sde", tmp_path / "two", *settings, "trainer.max_epochs=3"))
    assert calls == [["a square"]]


def test_a_run_with_a_cache_is_the_run_without(world, tmp_path, settings):
    """Up to rounding: prompts are encoded by themselves with it, together without."""
    ours = run_rounds(world.build("mopd_sde", tmp_path / "one", *settings))
    theirs = run_rounds(world.build("mopd_sde", tmp_path / "two", *settings, "model.prompt_cache=null"))
    torch.testing.assert_close(ours.flat_gradient(-1), theirs.flat_gradient(-1), rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
def test_two_processes_fill_one_cache(world, tmp_path, settings, calls):
    world.build("mopd_sde", tmp_path / "one", *settings, *FORKED, "trainer.max_epochs=1").fit()
    assert calls == []  # they were made in the processes that were started
    files = list((tmp_path / "cache").glob("*/*.safetensors"))
    assert len(files) == 2  # one of each process
    world.build("mopd_sde", tmp_path / "two", *settings, "trainer.max_epochs=1").fit()
    assert calls == []
