"""The whole report on a tiny pipeline: who is scored live, what is read from cards, what is written."""

import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_pipelines import without_t5

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, save_adapter
from diffopd.evaluation import Benchmark, BenchmarkTask, EvaluationResult
from diffopd.files import atomic_write_json
from diffopd.metric.reward_mean import RewardMean
from diffopd.model import SD3Model
from diffopd.report.distillation import base_scores, report_distillation
from diffopd.sampler import FlowSampler
from diffopd.teacher import Estimate, Recipe, TeacherCard, TeacherSet
from diffopd.types import Scores

SCORE = Estimate(mean=0.75, low=0.7, high=0.8, n=2)
LORA = LoRA(rank=2, alpha=4, target_modules=["to_q", "to_v"], init="gaussian", start=None)


def brightness(images, prompts):
    return Scores(images.mean((1, 2, 3)), {}, "[0, 1], luminance")


@pytest.fixture
def benchmark(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    tasks = {
        task: BenchmarkTask(
            path=str(tmp_path / "prompts.txt"),
            num_prompts=2,
            images_per_prompt=1,
            metric=RewardMean(reward=brightness, parts=[], tags=[]),
        )
        for task in ("ocr", "style")
    }
    sampler = FlowSampler(num_steps=2, noise_level=0.0, shift=3.0, guidance_scale=1.0)
    return Benchmark(name="tiny", seed=0, sampler=sampler, tasks=tasks, held_out={})


@pytest.fixture
def model(tmp_path):
    model = SD3Model(**without_t5(tmp_path / "pipeline").settings)
    for number, name in enumerate(("ocr", "style", "student")):
        add_adapter(model.transformer, name, LORA, torch.Generator().manual_seed(number))
        with torch.no_grad():
            for parameter in adapter_parameters(model.transformer, name).values():
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
    return model


def teacher_set(model, folder, cards):
    entries = {}
    for task, scores in cards.items():
        save_adapter(model.transformer, task, folder / task)
        TeacherCard(
            name=task,
            task=task,
            guidance_scale=1.5,
            base=model.identity,
            rank=2,
            alpha=4.0,
            scores=scores,
            recipe=Recipe(command="train", seed=0, minutes=1.0, images=6, reward_calls=6, commit="0" * 7),
        ).save(folder / task)
        entries[task] = {"path": str(folder / task), "guidance_scale": None}
    teachers = TeacherSet(teachers=entries, check_base=True)
    teachers.load(model)
    return teachers


def write_metrics(path):
    path.write_text("step,epoch,train/reward/ocr\n0,0,0.4\n1,1,0.5\n")
    return path


def test_report(model, benchmark, tmp_path):
    full = {"tiny": {"ocr": SCORE, "style": SCORE}}
    teachers = teacher_set(model, tmp_path / "teachers", {"ocr": full, "style": {}})
    console = Console(file=io.StringIO(), width=100)
    files = report_distillation(
        model=model,
        teachers=teachers,
        student="student",
        student_guidance=1.5,
        benchmark=benchmark,
        folder=tmp_path / "report",
        metrics_csv=write_metrics(tmp_path / "metrics.csv"),
        batch_size=4,
        rows_per_task=1,
        other_files={"config": "here/config.yaml"},
        console=console,
    )
    text = console.file.getvalue()
    live = [line.split(" |")[0] for line in text.splitlines() if "images/s" in line]
    assert live == [
        *(f"scoring the student, guidance {scale}" for scale in ("1.5", "2", "1")),
        *(f"scoring the base, guidance {scale}" for scale in ("1.5", "2", "1")),
        "scoring the style teacher",
    ]
    assert "config:        here/config.yaml" in text
    for path in (files.table, files.grid, files.curve):
        assert str(path) in text
        assert path.is_file()
    assert "| teacher: ocr | 1.5 | 0.750 ±0.050 | 0.750 ±0.050 |" in files.table.read_text()
    results = [EvaluationResult.load(tmp_path / "report" / f"student_guidance_{g}.json") for g in (1.5, 2, 1)]
    assert [result.guidance_scale for result in results] == [1.5, 2.0, 1.0]
    rows = [line.split(" | ")[:2] for line in files.table.read_text().splitlines()]
    assert rows.count(["| student's gain kept", "1.5"]) == 1
    with Image.open(files.grid) as grid:
        assert grid.size == (240 + 3 * 136 + 8, 36 + 2 * 136)


def test_base_scores_come_from_the_model_s_card(model, benchmark, tmp_path):
    scores = {"tiny": {"ocr": vars(SCORE), "style": vars(SCORE)}}
    card = {"scores": {"guidance 2": scores, "guidance 1": scores}}
    atomic_write_json(Path(model.path) / "card.json", card)
    assert base_scores(model.path, "tiny", 2.0) == {"ocr": SCORE, "style": SCORE}
    assert base_scores(model.path, "tiny", 1.5) == base_scores(model.path, "another", 2.0) == {}
    console = Console(file=io.StringIO(), width=100)
    files = report_distillation(
        model=model,
        teachers=teacher_set(model, tmp_path / "teachers", {"ocr": card_scores(scores)}),
        student="student",
        student_guidance=1.0,
        benchmark=benchmark,
        folder=tmp_path / "report",
        metrics_csv=tmp_path / "absent.csv",
        batch_size=4,
        console=console,
    )
    assert "scoring the base" not in console.file.getvalue()
    assert files.curve is None
    assert "| base | 2 | 0.750 ±0.050 | 0.750 ±0.050 |" in files.table.read_text()


def card_scores(scores):
    return {name: {task: Estimate(**entry) for task, entry in e.items()} for name, e in scores.items()}


def test_an_unreadable_card_is_named(tmp_path):
    atomic_write_json(tmp_path / "card.json", {"scores": {"guidance 1": {"tiny": {"ocr": {"mean": 0.5}}}}})
    with pytest.raises(
        ValueError, match=r"card\.json: scores must be guidance -> benchmark -> task -> mean, low, high, n"
    ):
        base_scores(str(tmp_path), "tiny", 1.0)
