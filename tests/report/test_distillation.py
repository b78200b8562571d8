"""The whole report on a tiny pipeline: who is scored live, what is read from cards, what is written."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, save_adapter
from diffopd.config.folder import config_folder
from diffopd.evaluation import (
    Benchmark,
    BenchmarkTask,
    EvaluationResult,
    conditions_of,
    evaluate,
    held_out_conditions_of,
)
from diffopd.files.atomic import atomic_write_json
from diffopd.files.paths import resolve_path
from diffopd.metric.reward_mean import RewardMean
from diffopd.model import SD3Model
from diffopd.report.run.chosen import choose
from diffopd.report.run.distillation import report_distillation
from diffopd.report.run.known_scores import base_held_out, base_scores, comparable, unlike
from diffopd.sampler import FlowSampler
from diffopd.teacher import HeldOut, Recipe, Score, TeacherCard, TeacherSet
from diffopd.types import Scores
from support.tiny_pipelines import without_t5


def scores_of(model, benchmark, **other):
    """Both tasks' scores as a card has them, measured as ``benchmark`` does it, but for ``other``."""
    conditions = conditions_of(benchmark, model)
    return {
        task: Score(mean=0.75, low=0.7, high=0.8, n=2, conditions={**conditions[task], **other})
        for task in ("ocr", "style")
    }


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


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A saved pipeline, which tests get copies of: its scores are written beside it."""
    return without_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def model(pipeline, tmp_path):
    shutil.copytree(pipeline.folder, tmp_path / "pipeline")
    model = SD3Model(**{**pipeline.settings, "path": str(tmp_path / "pipeline")})
    for number, name in enumerate(("ocr", "style", "student")):
        add_adapter(model.transformer, name, LORA, torch.Generator().manual_seed(number))
        with torch.no_grad():
            for parameter in adapter_parameters(model.transformer, name).values():
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
    return model


def teacher_set(model, folder, cards, held_out=None):
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
            held_out=held_out or {},
        ).save(folder / task)
        entries[task] = {"path": str(folder / task), "guidance_scale": None}
    teachers = TeacherSet(teachers=entries, check_base=True)
    teachers.load(model)
    return teachers


@pytest.fixture
def report(model, benchmark, tmp_path):
    """``report(cards, student_guidance=..., ...)`` -> its files and what it printed."""

    def make(cards, **settings):
        console = Console(file=io.StringIO(), width=100)
        files = report_distillation(
            model=model,
            teachers=teacher_set(model, tmp_path / "teachers", cards),
            student="student",
            folder=tmp_path / "report",
            batch_size=4,
            console=console,
            **{"benchmark": benchmark, "metrics_csv": tmp_path / "absent.csv", **settings},
        )
        return files, console.file.getvalue()

    return make


def write_metrics(path):
    path.write_text("step,epoch,train/reward/ocr\n0,0,0.4\n1,1,0.5\n")
    return path


def test_report(report, model, benchmark, tmp_path):
    files, text = report(
        {"ocr": {"tiny": scores_of(model, benchmark)}, "style": {}},
        student_guidance=1.5,
        metrics_csv=write_metrics(tmp_path / "metrics.csv"),
        rows_per_task=1,
        other_files={"config": "here/config.yaml"},
    )
    live = [line.split(" |")[0] for line in text.splitlines() if "images/s" in line]
    assert live == [
        *(f"scoring the student, guidance {scale}" for scale in ("1.5", "2", "1")),
        *(f"scoring the base, guidance {scale}" for scale in ("1.5", "2", "1")),
        "scoring the style teacher",
        "choosing pictures: ocr teacher",  # whose card lacks the scores of single images
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
        assert grid.size == (240 + 4 * 136 + 8, 56 + 2 * (136 + 16))  # base, two teachers, student
    assert files.sheet is not None
    assert list(files.sheet.columns) == ["base", "ocr\nteacher", "style\nteacher", "student"]
    assert [task for task, _ in files.sheet.prompts] == ["ocr", "style"]
    assert list(files.panels) == ["ocr"]


def test_the_picture_s_prompts_and_scores_are_those_of_the_rule(report, model, benchmark, tmp_path):
    files, _ = report({"ocr": {}, "style": {}}, student_guidance=1.0, rows_per_task=1)
    console = Console(file=io.StringIO())
    of_base = evaluate(model, benchmark, batch_size=4, guidance_scale=2.0, console=console)
    sheet = files.sheet
    for row, task in enumerate(("ocr", "style")):
        scale = 1.5  # of the teachers
        of_teacher = evaluate(
            model, benchmark, batch_size=4, adapter=f"teacher_{task}", guidance_scale=scale, console=console
        )
        of_student = EvaluationResult.load(tmp_path / "report" / "student_guidance_1.json")
        base, teacher = of_base.tasks[task].scores, of_teacher.tasks[task].scores
        (place,) = choose(task, base, teacher, number=1).places
        assert sheet.prompts[row] == (task, ("one", "two")[place])
        shown = dict(zip(sheet.columns, sheet.scores[row], strict=True))
        wanted = {
            "base": base[place],
            f"{task}\nteacher": teacher[place],
            "student": of_student.tasks[task].scores[place],
        }
        assert {name: shown[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)


def test_nothing_is_drawn_to_choose_where_cards_have_the_scores_of_single_images(report, model, benchmark):
    def known(*single):
        found = scores_of(model, benchmark)
        return {task: dataclasses.replace(score, single=list(single)) for task, score in found.items()}

    write_base_card(model, known(0.9, 0.1))
    files, text = report({"ocr": {"tiny": known(1.0, 1.0)}}, student_guidance=1.5, rows_per_task=1)
    assert "choosing pictures" not in text
    assert list(files.sheet.prompts) == [("ocr", "two")]
    assert "single" not in files.scores.read_text()


def test_base_scores_come_from_the_model_s_card(report, model, benchmark):
    known = scores_of(model, benchmark)
    write_base_card(model, known)
    assert base_scores(model.path, "tiny", 2.0) == known
    assert base_scores(model.path, "tiny", 1.5) == base_scores(model.path, "another", 2.0) == {}
    files, text = report({"ocr": {"tiny": known}}, student_guidance=1.0)
    assert "scoring the base" not in text
    assert files.curve is None
    assert "| base | 2 | 0.750 ±0.050 | 0.750 ±0.050 |" in files.table.read_text()


def write_base_card(model, known, held_out=None):
    scores = {"tiny": {task: dataclasses.asdict(score) for task, score in known.items()}}
    card = {"scores": {"guidance 2": scores, "guidance 1": scores}}
    if held_out:
        entries = {name: dataclasses.asdict(value) for name, value in held_out.items()}
        card["held_out"] = {"guidance 1": {"tiny": entries}}
    atomic_write_json(Path(model.path) / "card.json", card)


def of_card(model, benchmark, value, **other):
    conditions = held_out_conditions_of(benchmark, model)
    return {
        name: HeldOut(value=value, n=4, better="higher", conditions={**conditions[name], **other})
        for name in benchmark.held_out
    }


def test_held_out_values_come_from_cards_and_nothing_is_drawn_for_those_that_are_not_there(
    model, benchmark, tmp_path
):
    names = ("light", "light_of_ocr")
    benchmark = dataclasses.replace(
        benchmark,
        held_out={name: RewardMean(reward=brightness, parts=[], tags=[]) for name in names},
        held_out_tasks={"light_of_ocr": ["ocr"]},
    )
    known = scores_of(model, benchmark)
    write_base_card(model, known, of_card(model, benchmark, 0.125))
    other_steps = of_card(model, benchmark, 0.25, **{"sampler.num_steps": 40})
    console = Console(file=io.StringIO(), width=100)
    cards = {"ocr": {"tiny": known}, "style": {"tiny": known}}
    teachers = teacher_set(model, tmp_path / "teachers", cards, {"tiny": other_steps})
    files = report_distillation(
        model=model,
        teachers=teachers,
        student="student",
        student_guidance=1.0,
        benchmark=benchmark,
        folder=tmp_path / "report",
        metrics_csv=tmp_path / "absent.csv",
        batch_size=4,
        console=console,
    )
    text = console.file.getvalue()
    assert "scoring the base" not in text
    assert "scoring the ocr teacher" not in text
    assert text.count("the ocr teacher's card has values that do not fit (here and there): ") == 1
    assert "sampler.num_steps: 2 and 40" in text
    assert "Not used for training" in text
    student = EvaluationResult.load(tmp_path / "report" / "student_guidance_1.json")
    light, of_ocr = (student.held_out_scores[name] for name in ("light", "light_of_ocr"))
    assert (light.n, of_ocr.n, light.better) == (4, 2, "higher")
    assert light.conditions == held_out_conditions_of(benchmark, model)["light"]
    lines = files.table.read_text().splitlines()
    assert "|  | guidance | light ↑ | light of ocr ↑ |" in lines
    assert lines.count("| base | 1 | 0.125 | 0.125 |") == 1
    assert lines.count("| base | 2 | - | - |") == 1  # the card has it at guidance 1 alone
    assert lines.count("| teacher: ocr | 1.5 | - | - |") == 1
    assert f"| student | 1 | {light.value:.3f} | {of_ocr.value:.3f} |" in lines
    assert files.final.rows[0].held_out == of_card(model, benchmark, 0.125)


def test_conditions_of_a_held_out_value_are_those_of_the_images_that_it_sees(model, benchmark):
    metric = RewardMean(reward=brightness, parts=[], tags=[])
    settings = {"held_out": {"all": {"reward": {"upscale": 2}}}, "tasks": {"ocr": {}, "style": {}}}
    benchmark = dataclasses.replace(
        benchmark,
        held_out={"all": metric, "of_ocr": metric},
        held_out_tasks={"of_ocr": ["ocr"]},
        settings=settings,
    )
    found = held_out_conditions_of(benchmark, model)
    assert (found["all"]["images"], found["of_ocr"]["images"]) == (4, 2)
    assert found["all"]["prompts"] != found["of_ocr"]["prompts"]
    assert found["of_ocr"]["metric"] == "RewardMean"
    assert found["all"]["metric"].startswith("RewardMean ")
    shared = {"seed", "base", "sampler", "sampler.num_steps"}
    of_task = conditions_of(benchmark, model)["ocr"]
    assert {name: found["all"][name] for name in shared} == {name: of_task[name] for name in shared}


def changed(benchmark, what, folder):
    """The benchmark with something else overridden, its name kept."""
    ocr = benchmark.tasks["ocr"]
    if what == "prompts":
        (folder / "other.txt").write_text("four\nfive\n")
        ocr = dataclasses.replace(ocr, path=str(folder / "other.txt"))
    if what == "number":
        ocr = dataclasses.replace(ocr, num_prompts=1)
    if what == "images":
        ocr = dataclasses.replace(ocr, images_per_prompt=2)
    tasks = {**benchmark.tasks, "ocr": ocr}
    if what == "steps":
        sampler = FlowSampler(num_steps=1, noise_level=0.0, shift=3.0, guidance_scale=1.0)
        return dataclasses.replace(benchmark, sampler=sampler)
    if what == "seed":
        return dataclasses.replace(benchmark, seed=1)
    if what == "metric":
        settings = {"tasks": {task: {"metric": {"reward": {"upscale": 2}}} for task in tasks}}
        return dataclasses.replace(benchmark, settings=settings)
    return dataclasses.replace(benchmark, tasks=tasks)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("prompts", "ocr, prompts: "),
        ("number", "ocr, images: 1 and 2"),
        ("images", "ocr, images: 4 and 2"),
        ("steps", "sampler.num_steps: 1 and 2"),
        ("seed", "seed: 1 and 0"),
        ("metric", "metric: RewardMean "),
    ],
)
def test_scores_of_another_benchmark_of_the_same_name_are_not_put_beside_the_student_s(
    report, model, benchmark, tmp_path, what, told
):
    known = scores_of(model, benchmark)
    write_base_card(model, known)
    changed_benchmark = changed(benchmark, what, tmp_path)
    files, text = report({"ocr": {"tiny": known}}, student_guidance=1.0, benchmark=changed_benchmark)
    assert f"the base's card does not fit (here and there): {told}" in text
    assert f"the ocr teacher's card does not fit (here and there): {told}" in text
    assert "scoring the base, guidance 1" in text
    assert "scoring the ocr teacher" in text
    rows = json.loads(files.scores.read_text())["rows"]
    assert all(score["mean"] != 0.75 for row in rows for score in row["scores"].values())
    numbers = {task: {row["scores"][task]["n"] for row in rows} for task in ("ocr", "style")}
    assert all(len(of) == 1 for of in numbers.values()), "every row has the same number of images"


def test_a_card_of_before_conditions_were_kept_is_not_trusted(model, benchmark):
    bare = {
        task: dataclasses.replace(score, conditions={}) for task, score in scores_of(model, benchmark).items()
    }
    wanted = conditions_of(benchmark, model)
    assert unlike(bare, wanted, base=model.path) == ["it does not say how ocr, style was scored"]
    assert unlike(scores_of(model, benchmark), wanted, base=model.path) == []
    (told,) = unlike(scores_of(model, benchmark, base="another"), wanted, base=model.path)
    assert told == f"they are of another base model than {model.path}, or of other weights than it has now"


@pytest.mark.parametrize("name", ["mini", "mini_large"])
def test_shipped_cards_fit_the_shipped_benchmarks(name):
    """Else ``make demo`` scores base and teachers for minutes; experiments/add_scores.py writes a card."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("evaluate", overrides=[f"benchmark={name}", "paths.run=unused"])
    settings = OmegaConf.to_container(cfg.benchmark, resolve=True)
    benchmark = dataclasses.replace(instantiate(cfg.benchmark), settings=settings)
    wanted = conditions_of(benchmark, instantiate(cfg.model))
    assert unlike(base_scores(cfg.model.path, name, 1.0), wanted, base="mini") == []
    held_out = held_out_conditions_of(benchmark, instantiate(cfg.model))
    of_base = base_held_out(cfg.model.path, name, 1.0)
    kept = set(held_out) if name == "mini" else set()  # of mini_large the base's card keeps scores alone
    assert set(comparable(of_base, held_out, whose="base", tell=print)) == kept
    for task in wanted:
        card = TeacherCard.load(resolve_path(f"package://assets/teachers/{task}"))
        known = card.scores[name]
        assert unlike(known, {known_task: wanted[known_task] for known_task in known}, base="mini") == []
        of_teacher = card.held_out.get(name, {})
        assert set(comparable(of_teacher, held_out, whose=task, tell=print)) == set(held_out)


def test_an_unreadable_card_is_named(tmp_path):
    atomic_write_json(tmp_path / "card.json", {"scores": {"guidance 1": {"tiny": {"ocr": {"mean": 0.5}}}}})
    with pytest.raises(
        ValueError, match=r"card\.json: scores must be guidance -> benchmark -> task -> mean, low, high, n"
    ):
        base_scores(str(tmp_path), "tiny", 1.0)
    entry = {"guidance 1": {"tiny": {"frechet": {"mean": 0.5}}}}
    atomic_write_json(tmp_path / "card.json", {"held_out": entry})
    assert base_held_out(str(tmp_path), "tiny", 2.0) == {}
    with pytest.raises(
        ValueError, match=r"card\.json: held_out must be guidance -> benchmark -> metric -> value, n, better"
    ):
        base_held_out(str(tmp_path), "tiny", 1.0)
