"""Which folder an evaluation has, and what it may go on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffopd.evaluate import __main__ as evaluate
from diffopd.evaluate.folder import MADE_FROM
from diffopd.evaluate.settings import evaluation_id
from diffopd.evaluation import EvaluationResult, scoring
from diffopd.evaluation.processes import check_devices
from support.tiny_pipelines import without_t5

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return without_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def composed(tiny, tmp_path):
    """``composed(*overrides)``: an evaluation of two prompts on a tiny pipeline."""
    (tmp_path / "prompts.txt").write_text("a red barn\na blue door\n")

    def make(*overrides):
        given = [
            *(f"model.path={tiny.folder}", f"model.image_size={tiny.settings['image_size']}", "device=cpu"),
            *("benchmark=drawbench", f"benchmark.path={tmp_path / 'prompts.txt'}", "num_threads=1"),
            *("benchmark.sampler.num_steps=2", "check_scorers=false", f"paths.run={tmp_path / 'run'}"),
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("evaluate", overrides=[*given, *overrides])

    return make


def test_an_evaluation_has_a_name_of_its_own_that_only_results_depend_on(composed):
    name = composed().run_id
    assert name.startswith("base_")
    same = ["batch_size=3", "devices=2", "num_threads=2", "device=auto", "resume=never", "check_scorers=true"]
    assert composed(*same).run_id == name
    other = ["guidance_scale=3", "benchmark.num_prompts=1", "model.dtype=bf16"]
    assert len({name, *(composed(setting).run_id for setting in other)}) == 4
    adapter = composed("adapter_path=/x/runs/mopd_ode/seed0/adapter")
    assert adapter.run_id.startswith("mopd_ode_seed0_adapter_")
    assert evaluation_id(_root_=composed()) == name


def test_the_same_command_does_not_evaluate_twice(composed, tmp_path, capsys, monkeypatch):
    evaluate.run(composed())
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert not (tmp_path / "run" / "progress").exists()
    capsys.readouterr()
    monkeypatch.setattr("diffopd.evaluate.run.load_model", None)  # would be called
    evaluate.run(composed())
    shown = capsys.readouterr().out
    assert "already evaluated; resume=never evaluates again" in shown
    assert "palette_harmony" in shown
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_images_of_something_else_are_never_mixed_in(composed, tmp_path):
    evaluate.run(composed())
    with pytest.raises(
        ValueError, match=r"(?s)holds an evaluation of something else:\n  guidance_scale: 2\.0 -> 3"
    ):
        evaluate.run(composed("guidance_scale=3"))
    (tmp_path / "prompts.txt").write_text("a red barn\na green door\n")
    with pytest.raises(ValueError, match=r"\(prompts of aesthetic\): \w+ -> \w+\nGive this .* resume=never"):
        evaluate.run(composed())
    evaluate.run(composed("resume=never", "guidance_scale=3"))
    run = tmp_path / "run"
    assert EvaluationResult.load(run / "previous_1" / "results.json").guidance_scale == 2
    assert EvaluationResult.load(run / "results.json").tasks["aesthetic"].texts[1] == "a green door"


def test_weights_count_by_what_is_in_them(composed, tiny, tmp_path, monkeypatch):
    evaluate.run(composed())
    made_from = json.loads((tmp_path / "run" / MADE_FROM).read_text())["made_from"]
    assert len(made_from["(base model)"]) == 64
    assert "model.path" not in made_from
    moved = tmp_path / "moved"
    moved.symlink_to(tiny.folder)
    evaluate.run(composed(f"model.path={moved}"))  # the same weights elsewhere
    monkeypatch.setattr("diffopd.model.pipeline_model.pipeline_identity", lambda *_: "other weights")
    with pytest.raises(ValueError, match=r"\(base model\): \w{64} -> other weights"):
        evaluate.run(composed())


def test_files_of_unknown_origin_are_kept_aside(composed, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    evaluate.run(composed())
    assert (tmp_path / "run" / "previous_1" / "results.json").read_text() == "{}"
    assert EvaluationResult.load(tmp_path / "run" / "results.json").benchmark == "drawbench"


def test_a_failure_in_the_middle_costs_no_finished_image(composed, tmp_path, monkeypatch):
    settings = ["batch_size=1", "save_images=true"]
    evaluate.run(composed(*settings, f"paths.run={tmp_path / 'whole'}"))
    made, broken = [], [True]

    def failing(metric, images, prompts):
        if prompts.indices == (1,) and broken:
            raise MemoryError(broken.pop())
        made.extend(prompts.indices)
        return kept_of(metric, images, prompts)

    kept_of = scoring.kept_of
    monkeypatch.setattr(scoring, "kept_of", failing)
    with pytest.raises(MemoryError):
        evaluate.run(composed(*settings))
    assert not (tmp_path / "run" / "results.json").exists()
    evaluate.run(composed(*settings))
    assert made == [0, 1]  # each once
    for name in ("results.json", "images.png", "images/aesthetic/00000.png", "images/aesthetic/00001.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_impossible_devices_are_refused(composed, monkeypatch):
    with pytest.raises(ValueError, match=r"device=mps is one device, devices=2 asks for several"):
        check_devices(2, "mps")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"devices=2, but there are 1 GPUs"):
        check_devices(2, "auto")
    check_devices(2, "cpu")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(ValueError, match=r"devices=2 starts its own processes, but torchrun has already"):
        evaluate.run(composed("devices=2"))
