import json
from pathlib import Path

import metrics_page
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.evaluation import Benchmark
from diffopd.report.run.held_out import LABELS
from diffopd.world.learning_tasks import NUM_TEST_PROMPTS, TASKS, write_task

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "benchmark").glob("*.yaml"))
TAUGHT = {"dopsd_figure": "figure", "dopsd_style": "style", "dopsd_domain": "domain"}
"""Benchmarks of what was taught -> the learning task whose pictures and prompts they need."""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.jsonl"  # which every metric could score
    lines = [
        {"prompt": f'a door that says "{word}"', "tag": "counting", "include": [{"class": "cat", "count": 1}]}
        for word in ("PUSH", "PULL")
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def build(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("evaluate", overrides=list(overrides)).benchmark)


@pytest.mark.parametrize("name", TAUGHT)
def test_benchmarks_of_what_was_taught(name, tmp_path):
    style = {"style": "inverted"} if name == "dopsd_style" else {}
    task = TASKS[TAUGHT[name]](0, 6, **style)
    write_task(task, tmp_path / "dopsd_pictures" / TAUGHT[name])
    few = ["benchmark.tasks.nearness.num_prompts=6"] if name == "dopsd_domain" else []
    benchmark = build(f"benchmark={name}", f"paths.root={tmp_path}", *few)
    assert benchmark.name == name
    assert benchmark.sampler.num_steps == 4
    prompts = benchmark.prompts()  # the rewards look at each
    assert set(prompts["nearness"].texts) == {example.text for example in task.train}
    assert all(picture is not None for picture in prompts["nearness"].targets)
    assert not set(prompts["unseen"].texts) & set(prompts["nearness"].texts)
    assert len(prompts["unseen"]) == NUM_TEST_PROMPTS
    before = {"composition", "ocr", "aesthetic"}
    assert {task for task in prompts if "frechet" in benchmark.held_out_of(task)} == before
    if name == "dopsd_domain":
        seen = {task for task in prompts if "frechet_to_domain" in benchmark.held_out_of(task)}
        assert seen == {"nearness", "unseen"}


@pytest.mark.parametrize("name", sorted({*NAMES} - {*TAUGHT}))
def test_every_benchmark_builds(name, file):
    of_file = [] if name.startswith("mini") else [f"benchmark.path={file}"]
    # PickScore's weights are elsewhere.
    metric = ["metric@benchmark.metric=picture_quality"] if name == "pickscore" else []
    benchmark = build(f"benchmark={name}", *of_file, *metric)
    assert isinstance(benchmark, Benchmark)
    assert benchmark.name == name
    assert benchmark.sampler.num_steps == {"mini_4_steps": 4, "mini_16_steps": 16}.get(name, 40)
    assert benchmark.sampler.deterministic
    numbers = {task: len(rows) for task, rows in benchmark.prompts().items()}
    of_each = ("mini", "mini_ood", "mini_factors", "mini_4_steps", "mini_16_steps")
    expected = {
        **{each: {"composition": 64, "ocr": 64, "aesthetic": 64} for each in of_each},
        "mini_large": {"composition": 540, "ocr": 600, "aesthetic": 600},
    }
    assert numbers == expected.get(name, dict.fromkeys(numbers, 2))


@pytest.mark.parametrize("name", ["mini", "mini_large", "mini_ood", "mini_factors"])
def test_what_is_held_out_has_a_name_to_be_read_and_the_direction_of_the_page_of_metrics(name):
    benchmark = build(f"benchmark={name}")
    of_every = ("spectrum", "frechet", "aesthetic_of_all_tasks", "composition_of_aesthetic")
    shown = {*benchmark.held_out, *benchmark.held_out_parts}
    assert shown == set(LABELS if name == "mini_factors" else of_every)
    facts = {entry["name"]: entry["better"] for entry in metrics_page.read()["score"]}
    for held_out, metric in benchmark.held_out.items():
        value = "frechet_distance" if held_out == "frechet" else "value"
        assert {"higher": True, "lower": False}[facts[value]] == metric.higher_is_better


def test_a_metric_can_be_chosen_for_a_file(file):
    only = build("benchmark=prompts", f"benchmark.path={file}", "metric@benchmark.metric=picture_quality")
    assert only.tasks["prompts"].metric.parts == ("palette_harmony", "contrast", "balance")


def test_the_evaluation_uses_the_sampler_asked_for(file):
    assert build("benchmark=mini", "sampler@benchmark.sampler=dpm2").sampler.num_steps == 40
    assert build("benchmark.sampler.num_steps=7").sampler.num_steps == 7
