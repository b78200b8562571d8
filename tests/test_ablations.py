"""Ablation files: every cell composes, what is shared runs once, as a program and as Hydra's own sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffopd.check import ConfigError
from diffopd.config.folder import config_folder
from diffopd.jobs.cells import (
    CLAIMS,
    ablation_names,
    index_of,
    jobs_of,
    read_cells,
    report_jobs,
    scoring_jobs,
)
from diffopd.report.methods.claims import read_claims
from support import copies
from support.run_folders import result


@pytest.fixture
def cells(tmp_path):
    """``cells(*overrides)`` of ``conf/ablations.yaml``."""

    def read(*overrides):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            return read_cells(compose("ablations", overrides=list(overrides)), tmp_path)

    return read


@pytest.mark.parametrize("name", ablation_names())
def test_the_docs_list_what_a_file_varies(name):
    conf = OmegaConf.load(Path(config_folder()) / "experiment" / "ablation" / f"{name}.yaml")
    sweep = OmegaConf.select(conf, "hydra.sweeper.params") or {}
    varied = " ".join(f"{key}={values}" for key, values in sweep.items() if key != "seed")
    lines = (Path(__file__).parents[1] / "docs" / "ablations.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
    assert varied in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ablation_names())
def test_every_cell_of_a_file_can_be_run(cells, world, name):
    of_pictures = ["model=mini_klein", f"model.path={world.klein}", "data.path=pictures"]
    given = json.dumps(of_pictures if name.startswith("dopsd") else [])
    found = cells(f"ablations=[{name}]", "seeds=1", f"overrides={given}")
    assert found
    assert len({cell.label for cell in found}) == len({cell.folder for cell in found}) == len(found)


def test_all_leaves_out_what_needs_a_model_and_pictures():
    with initialize_config_dir(config_folder(), version_base="1.3"):
        left_out = compose("ablations").not_in_all
    assert set(left_out) == {name for name in ablation_names() if name.startswith("dopsd")}


def test_teachers_of_dopsd_differ_in_their_weights_alone():
    def teacher(variant):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            cfg = compose("train", overrides=[f"+variant={variant}", "data.path=x", "paths.run=."])
        node = cfg.teacher
        return (node.weights, node.decay, node.average_dtype), cfg.name

    names = ("dopsd_live", "dopsd_frozen", "dopsd_ema_09", "dopsd", "dopsd_ema_bf16")
    found = {name: teacher(name) for name in names}
    assert {name: settings for name, (settings, _) in found.items()} == {
        "dopsd_live": ("live", 0.9999, "fp32"),
        "dopsd_frozen": ("frozen", 0.9999, "fp32"),
        "dopsd_ema_09": ("ema", 0.9, "fp32"),
        "dopsd": ("ema", 0.9999, "fp32"),
        "dopsd_ema_bf16": ("ema", 0.9999, "bf16_as_released"),
    }
    assert all(name == told for name, (_, told) in found.items())


def test_what_two_files_ask_for_is_trained_once(cells, tmp_path):
    found = cells("ablations=[method,formulation,schedule]", "seeds=2")
    of_opd = {
        cell.folder
        for cell in found
        if cell.seed == 0 and cell.label in ("variant=mopd_ode", "data.schedule=accumulate")
    }
    assert len(of_opd) == 1
    jobs = jobs_of(found, {}, tmp_path)
    assert len(jobs) == len({cell.folder for cell in found}) == 2 * (4 + 4 + 1)
    index = index_of(found)
    opd = "variant=mopd_ode,seed=1"
    assert index["method"][opd] == index["formulation"][opd] != index["method"]["variant=mopd_ode,seed=0"]


def test_a_training_that_others_need_runs_before_them(cells, tmp_path):
    found = cells("ablations=[teacher_quality]", "seeds=1")
    first = {name: ["+experiment=teacher_ocr"] for name in found[0].first}
    assert {"composition_25", "ocr_50"} <= set(first)
    jobs = {job.name: job for job in jobs_of(found, first, tmp_path)}
    assert list(jobs)[:6] == list(first)
    assert all(set(job.needs) == (set() if name in first else set(first)) for name, job in jobs.items())
    assert [*next(jobs["ocr_25"].commands())] == [
        "diffopd.train",
        "+experiment=teacher_ocr",
        "if_finished=skip",
    ]


def test_the_first_seed_of_every_file_comes_first(cells):
    seeds = [cell.seed for cell in cells("ablations=[schedule,guidance]")]
    assert seeds == [0] * 4 + [1] * 4 + [2] * 4


def test_more_seeds_keep_the_cells_of_fewer(cells):
    """`SEEDS=5 make ablations` after the default: only what is missing is trained."""
    few, more = (cells("ablations=[schedule]", f"seeds={number}") for number in (3, 5))
    folders = {cell.folder for cell in few}
    added = {cell.folder: cell.seed for cell in more if cell.folder not in folders}
    assert folders <= {cell.folder for cell in more}
    assert sorted(added.values()) == [3, 3, 4, 4]


def test_a_second_machine_trains_the_cells_of_later_seeds(cells):
    every = {cell.folder.name: cell.seed for cell in cells("ablations=[schedule]", "seeds=4")}
    later = {cell.folder.name: cell.seed for cell in cells("ablations=[schedule]", "seeds=2", "first_seed=2")}
    assert sorted(later.values()) == [2, 2, 3, 3]
    assert later.items() <= every.items()
    both = ["ablations=[schedule,gradient_variance]", "seeds=2", "first_seed=2"]
    assert {cell.folder.name for cell in cells(*both)} == set(later)  # what has no seeds was made before
    with pytest.raises(ConfigError, match="sweep no seed, so first_seed=1 leaves nothing to train"):
        cells("ablations=[gradient_variance]", "first_seed=1")


def test_claims_about_noise_are_about_cells(cells):
    """A claim's method is what the page calls a cell, or the name of its run."""
    files = [name for name, claims in CLAIMS.items() if claims == "noise"]
    found = cells(f"ablations=[{','.join(files)}]", "seeds=1")
    claims = read_claims(
        OmegaConf.to_container(OmegaConf.load(Path(config_folder()) / "claims" / "noise.yaml"))
    )
    named = {side for claim in claims for side in (claim.method, claim.against)}
    assert named == {cell.label.removeprefix("variant=") for cell in found}


@pytest.mark.parametrize("name", ["on_policy", "factors", "dopsd_leak"])
def test_claims_of_a_critique_are_about_the_cells_of_its_file(name):
    folder = Path(config_folder())
    sweep = OmegaConf.load(folder / "experiment" / "ablation" / f"{name}.yaml").hydra.sweeper.params
    claims = read_claims(OmegaConf.to_container(OmegaConf.load(folder / "claims" / f"{CLAIMS[name]}.yaml")))
    sides = {side for claim in claims for side in (claim.method, claim.against)}
    assert sides - {"base"} == set(sweep["+variant"].split(","))
    with initialize_config_dir(config_folder(), version_base="1.3"):
        benchmark = compose("evaluate", overrides=["benchmark=mini_factors"]).benchmark
    shown = {*benchmark.held_out, *benchmark.held_out_parts}
    named = [claim.task for claim in claims if claim.metric == "held_out"]
    assert {metric.strip() for task in named for metric in task.split(",")} <= shown


def test_other_benchmarks_are_scored_once_for_each_student(cells, tmp_path):
    found = cells("ablations=[method,formulation]", "seeds=1")
    assert scoring_jobs(found, [], [1, 2], 1) == []
    jobs = scoring_jobs(found, ["mini_large"], [1, 2], 1)
    assert len(jobs) == len({cell.folder for cell in found})
    adapter = found[0].folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    first = next(job for job in jobs if job.log == found[0].folder.with_suffix(".scores.log"))
    commands = []
    for command in first.commands():
        commands.append(command)
        place = found[0].folder / "scores" / f"mini_large_guidance_{len(commands)}"
        scored = result({"ocr": 0.5}, guidance_scale=float(len(commands)))
        scored.save(place / "results.json")  # as the command does, before its note is written
    assert [command[:3] for command in commands] == [
        ["diffopd.evaluate", "benchmark=mini_large", f"guidance_scale={scale}"] for scale in (1, 2)
    ]
    assert [*first.commands()] == []
    (page, *_) = report_jobs(found, tmp_path, benchmark="mini_large")
    with pytest.raises(FileNotFoundError):  # its labels are those of runs, which are not there
        next(page.commands())


def test_a_setting_makes_another_training_and_a_name_does_not(cells):
    def folders(*overrides):
        return {cell.folder.name for cell in cells("ablations=[guidance]", "seeds=1", *overrides)}

    assert folders() == folders('overrides=["name=other","run_id=another"]')
    assert not folders() & folders('overrides=["trainer.max_epochs=7"]')


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ablations=[]"], "ablations=[] names none, so there is nothing to train"),
        (["ablations=[state]"], "ablations has state, and conf/experiment/ablation has"),
        (["ablations=[states]", 'overrides=["sampler.num_steps=4"]'], "ablations.states: states.first=0 to"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(cells, overrides, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        cells(*overrides)


@pytest.mark.slow
def test_trainings_run_once_and_are_reported(world, tmp_path):
    small = [
        f'"{override}"' for override in world.overrides("mopd_ode") if "trainer.num_threads" not in override
    ]
    few = [f'"benchmark.tasks.{task}.num_prompts=2"' for task in ("composition", "ocr", "aesthetic")]
    given = ",".join([*small, *few, '"benchmark.sampler.num_steps=2"'])
    arguments = ["ablations=[schedule,guidance]", "seeds=1", "guidance=[1]", f"overrides=[{given}]"]
    first = copies.run(tmp_path, "ablations", *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    folder = tmp_path / "runs" / "ablations" / "default"
    assert "3 runs for 2 ablations" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/adapter/*.safetensors")}
    assert len(before) == 3
    page = (folder / "report" / "schedule" / "index.html").read_text()
    assert "data.schedule=accumulate" in page
    assert "data.schedule=alternate" in page
    assert (folder / "report" / "all" / "index.html").is_file()
    index = json.loads((folder / "index.json").read_text())
    assert (
        index["schedule"]["data.schedule=accumulate,seed=0"]
        == index["guidance"]["sampler.guidance_scale=1,seed=0"]
    )

    again = copies.run(tmp_path, "ablations", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_file_is_an_ordinary_sweep(world, tmp_path):
    overrides = [*world.overrides("mopd_ode"), "~report", "seed=0"]
    swept = copies.run(tmp_path, "train", "+experiment=ablation/schedule", *overrides)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    folder = tmp_path / "runs" / "ablation_schedule"
    finished = [str(path.relative_to(folder)) for path in sorted(folder.rglob("finished.json"))]
    assert finished == [f"data.schedule={name}/seed0/finished.json" for name in ("accumulate", "alternate")]


def test_a_training_made_for_other_ablations_is_labelled_by_the_name_it_has(cells, tmp_path):
    found = cells("ablations=[balance]", "seeds=1")
    (shared,) = (cell for cell in found if cell.label == "balance=equal")
    for cell in found:
        cell.folder.mkdir(parents=True)
        name = "made_before" if cell is shared else cell.name
        (cell.folder / "config.yaml").write_text(f"name: {name}\n")
    (job,) = report_jobs(found, tmp_path)
    ((_, _, labels, *_),) = job.commands()
    assert "made_before:" in labels
    assert f"{shared.name}:" not in labels
