"""Every check can object, and does so for the stated reason alone."""

from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from diffopd.doctor import checks, device
from diffopd.doctor.checks import (
    disk_findings,
    early_findings,
    estimated_checkpoint,
    folder_finding,
    group_findings,
    prompt_findings,
    share_findings,
    teacher_findings,
)
from diffopd.doctor.device import device_findings, num_processes, precision_findings
from diffopd.doctor.finding import Finding, Level, exit_code, findings_table
from diffopd.teacher import Score, TeacherCard

CPU = {"accelerator": "cpu", "devices": 1}
GIB = 1024**3


def worst(findings):
    return max(findings, key=lambda finding: finding.level)


def test_exit_codes():
    def found(*levels):
        return [Finding(level, "x", "y") for level in levels]

    assert exit_code([]) == 0
    assert exit_code(found(Level.FINE, Level.NOTE)) == 0
    assert exit_code(found(Level.FINE, Level.WARNING)) == 1
    assert exit_code(found(Level.FAILURE, Level.WARNING)) == 2


def test_brackets_in_a_finding_are_shown(capsys):
    from rich.console import Console

    Console(width=80).print(findings_table([Finding(Level.NOTE, "reward", "in [0, 1] and [bold]")]))
    assert "in [0, 1] and [bold]" in capsys.readouterr().out


def test_a_sound_set_up_is_fine_but_for_scores_nobody_has_measured(plan):
    found = list(early_findings(plan("mopd_ode")))
    assert {f.about for f in found if f.level > Level.FINE} == {
        f"teacher {task}" for task in ("composition", "ocr", "aesthetic")
    }
    assert exit_code(found) == 0


def test_prompts_that_do_not_divide_among_processes(plan):
    odd = replace(plan("mopd_ode"), processes=4)
    found = worst(share_findings(odd))
    assert found.level == Level.FAILURE
    assert "prompts_per_round=2 must be a multiple of the number of processes, 4" in found.text
    assert worst(share_findings(replace(odd, processes=2))).level == Level.FINE


def test_micro_batches_of_unequal_size(plan):
    found = worst(share_findings(plan("mopd_ode", "phase.micro_batch_size=4")))
    assert found.level == Level.WARNING
    assert "does not divide the 6 samples of a process, so the last micro-batch has 2" in found.text
    assert worst(share_findings(plan("mopd_ode", "phase.micro_batch_size=3"))).level == Level.FINE


def test_a_single_sample_of_a_prompt_is_compared_with_other_prompts(plan):
    alone = "data.tasks.ocr.group_size=1"
    found = worst(group_findings(plan("teacher_ocr", alone)))
    assert found.level == Level.FAILURE
    assert "data.tasks.ocr.group_size=1: without a second sample" in found.text
    assert worst(group_findings(plan("guard_ocr"))).level == Level.FINE
    assert not list(group_findings(plan("mopd_ode", alone)))


def test_fewer_prompts_than_a_round_takes(plan, tmp_path):
    (tmp_path / "few.txt").write_text('a "sign"\n')
    found = worst(prompt_findings(plan("mopd_ode", f"data.tasks.ocr.path={tmp_path / 'few.txt'}")))
    assert found.level == Level.WARNING
    assert "a round takes 2 prompts of ocr, its file has 1" in found.text


def score(mean, half=0.01):
    return Score(mean=mean, low=mean - half, high=mean + half, n=64)


@pytest.mark.parametrize(
    ("taught", "base", "level", "text"),
    [
        (0.9, 0.6, Level.FINE, "0.900, base 0.600 on ocr (mini, guidance 4.5)"),
        (0.61, 0.6, Level.NOTE, "the 95 % intervals overlap"),
        (0.5, 0.6, Level.WARNING, "does not beat the base on its own task: 0.500, base 0.600"),
        (0.6, 0.6, Level.WARNING, "does not beat the base"),
        (None, 0.6, Level.NOTE, "have no score on ocr at guidance 4.5"),
    ],
)
def test_teachers_are_compared_with_the_base_at_their_guidance(
    plan, world, monkeypatch, taught, base, level, text
):
    values = plan("sopd_ocr").values
    card = TeacherCard.load(world.teachers["ocr"])
    scores = {} if taught is None else {"mini": {"ocr": score(taught), "aesthetic": score(0.0)}}
    monkeypatch.setattr(TeacherCard, "load", lambda *_, **__: replace(card, scores=scores))
    asked = []

    def base_scores(path, benchmark, scale):
        asked.append((path, benchmark, scale))
        return {"ocr": score(base), "aesthetic": score(1.0)}  # another task does not count

    monkeypatch.setattr(checks, "base_scores", base_scores)
    (found,) = teacher_findings(values)
    assert (found.level, found.about) == (level, "teacher ocr")
    assert text in found.text
    assert asked == ([] if taught is None else [(str(world.pipeline), "mini", 4.5)])


@pytest.mark.parametrize(
    ("taught", "base", "level", "text"),
    [
        (None, None, Level.NOTE, "there are too few prompts for an interval"),
        (None, 0.6, Level.FINE, "0.900, base 0.600"),
        (0.9, None, Level.FINE, "0.900, base 0.600"),
    ],
)
def test_a_score_without_a_known_interval_counts_with_the_other_s(
    plan, world, monkeypatch, taught, base, level, text
):
    values, card = plan("sopd_ocr").values, TeacherCard.load(world.teachers["ocr"])

    def entry(mean, known):
        return score(mean) if known else Score(mean=mean, low=None, high=None, n=1)

    scores = {"mini": {"ocr": entry(0.9, taught)}}
    monkeypatch.setattr(TeacherCard, "load", lambda *_, **__: replace(card, scores=scores))
    monkeypatch.setattr(checks, "base_scores", lambda *_: {"ocr": entry(0.6, base)})
    (found,) = teacher_findings(values)
    assert found.level == level
    assert text in found.text


def test_scores_that_were_not_measured_alike_are_not_compared(plan, world, monkeypatch):
    values = plan("sopd_ocr").values
    card = TeacherCard.load(world.teachers["ocr"])
    taught = replace(score(0.9), conditions={"sampler.num_steps": 40})
    monkeypatch.setattr(TeacherCard, "load", lambda *_, **__: replace(card, scores={"mini": {"ocr": taught}}))
    base = replace(score(0.6), conditions={"sampler.num_steps": 10})
    monkeypatch.setattr(checks, "base_scores", lambda *_: {"ocr": base})
    (found,) = teacher_findings(values)
    assert found.level == Level.NOTE
    assert "have no score on ocr at guidance 4.5 that was measured alike" in found.text


def test_scores_at_another_guidance_say_little(plan):
    (found,) = teacher_findings(plan("sopd_ocr", "teacher.teachers.ocr.guidance_scale=2").values)
    assert found.level == Level.NOTE
    assert "used at guidance 2, but its recorded scores are at 4.5" in found.text


def test_the_embedded_teachers_beat_the_base(world, tmp_path):
    from diffopd.check.values import plain_values

    cfg = world.config("mopd_ode", tmp_path / "run", "model.path=package://assets/mini_sd3", *(
        f"teacher.teachers.{task}.path=package://assets/teachers/{task}"
        for task in ("composition", "ocr", "aesthetic")
    ))  # fmt: skip
    assert [found.level for found in teacher_findings(plain_values(cfg))] == [Level.FINE] * 3


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    assert folder_finding(str(tmp_path / "new" / "run")).level == Level.FINE
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    found = folder_finding(str(tmp_path / "file" / "run"))
    assert found.level == Level.FAILURE
    assert "file is a file, where a folder is needed" in found.text
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "no permission to write in" in folder_finding(str(tmp_path / "run")).text


@pytest.mark.parametrize(("free", "level"), [(9, Level.FAILURE), (15, Level.WARNING), (21, Level.FINE)])
def test_free_disk_against_what_is_needed(plan, monkeypatch, free, level):
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(free * GIB))
    (found,) = disk_findings(plan("mopd_ode").values["paths"]["run"], 10 * GIB)
    assert found.level == level
    assert f"about 10.00 GiB needed, {free}.00 GiB free" in found.text


def test_the_size_of_a_checkpoint_is_known_before_there_is_one(world, tmp_path):
    run = world.build("mopd_ode", tmp_path / "run", "trainer.max_epochs=1", "phase.score_every_n_rounds=0")
    estimate = estimated_checkpoint(run.phase)
    run.fit()
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    content = (checkpoint / "tensors.safetensors").read_bytes()
    data = (
        len(content) - 8 - int.from_bytes(content[:8], "little")
    )  # without the header, which is all names here
    num_parameters = len(run.phase.policies["student"].weights())
    assert data - estimate == 4 * num_parameters  # AdamW's step count of each
    assert estimated_checkpoint(torch.nn.Linear(1, 1)) is None


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    gpus = {"accelerator": "gpu", "devices": 4}
    (found,) = device_findings({"trainer": gpus})
    assert found.level == Level.FAILURE
    assert "needs 4 GPUs here, torch sees 2" in found.text
    (found,) = device_findings({"trainer": gpus | {"devices": 2}})
    assert (found.level, found.text) == (Level.FINE, "2 x a card")
    assert num_processes(gpus | {"devices": -1, "num_nodes": 3}) == 6
    assert num_processes(gpus | {"devices": [0, 1, 3]}) == 3
    assert num_processes(CPU | {"devices": "auto"}) == 1


def test_apples_gpu_has_no_float64(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("mps", "auto", "gpu"):
        (found,) = device_findings({"trainer": CPU | {"accelerator": name}})
        assert found.level == Level.FAILURE
        assert found.text.startswith(f"trainer.accelerator={name} ")
        assert "set trainer.accelerator=cpu" in found.text
    (found,) = device_findings({"trainer": CPU})
    assert found.level == Level.FINE


@pytest.mark.parametrize(
    ("dtype", "accelerator", "bf16", "level"),
    [
        ("fp32", "cpu", False, Level.FINE),
        ("bf16", "cpu", True, Level.WARNING),
        ("bf16", "gpu", False, Level.WARNING),
        ("bf16", "gpu", True, Level.FINE),
        ("fp16", "gpu", False, Level.FINE),
    ],
)
def test_precision_of_the_device(monkeypatch, dtype, accelerator, bf16, level):
    monkeypatch.setattr(device, "has_bf16", lambda: bf16)
    trainer = CPU | {"accelerator": accelerator}
    (found,) = precision_findings({"trainer": trainer, "model": {"dtype": dtype}})
    assert found.level == level
