"""``diffopd.table`` as users call it, on the tiny model: rows once, more seeds added, mistakes told first."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffopd.check import ConfigError
from diffopd.check.values import plain_values
from diffopd.config.arguments import quoted
from diffopd.config.folder import config_folder
from diffopd.doctor.cost import run_cost
from diffopd.evaluation import EvaluationResult
from diffopd.jobs import comparison
from diffopd.jobs.comparison import RowRun, check_rows, collect, jobs_of, read_rows, runs_of
from diffopd.report.comparison.claims import write_claims
from diffopd.report.comparison.wins import read_conditions
from diffopd.report.methods.archive import archive_runs
from diffopd.report.methods.claims import read_claims
from diffopd.report.methods.find import find_runs
from diffopd.teacher import HeldOut
from diffopd.world.learning_tasks import figure_task, write_task
from support import copies
from support.run_folders import result, write_run

TASKS = ("composition", "ocr", "aesthetic")
ROW = {"command": None, "arguments": [], "teachers": {}, "seeds": 1, "guidance": [1], "note": ""}


@pytest.fixture
def table(world, tmp_path):
    """``table(*arguments)`` makes a small table in ``tmp_path``."""

    def row(experiment, **settings):
        arguments = [f"+experiment={experiment}", *world.overrides(experiment)]
        return ROW | {"command": "train", "arguments": arguments} | settings

    own = tmp_path / "own"
    (own / "rows").mkdir(parents=True)
    teacher = row("teacher_aesthetic", seeds=1)
    teacher["arguments"] += [f"benchmark.tasks.{task}.num_prompts=2" for task in TASKS]
    student = row("sopd_aesthetic", seeds=None, teachers={"aesthetic": "teacher"})
    student["arguments"] = [x for x in student["arguments"] if not x.startswith("teacher.")] + ["~report"]
    rows = {"student": student, "teacher": teacher}
    (own / "rows" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))

    def run(*arguments):
        settings = ["--config-dir", "own", "rows=small", f'shared=["model.path={world.pipeline}"]']
        return copies.run(tmp_path, "table", *settings, "benchmarks=[mini]", *arguments)

    return run


@pytest.mark.slow
def test_rows_are_made_once_and_seeds_are_added(table, tmp_path):
    first = table()
    folder = tmp_path / "runs" / "small" / "one"
    assert first.returncode == 0, first.stdout + first.stderr
    for name in ("table.md", "table.csv", "radar.png", "reward_by_minutes.png", "images.png"):
        assert (folder / name).is_file()
    teacher, student = (folder / row / "seed0" for row in ("teacher", "student"))
    assert str(teacher / "adapter") in (student / "config.yaml").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed0/**/*.safetensors")}
    scores = {path: path.stat().st_mtime_ns for path in folder.glob("*/seed0/scores/**/results.json")}
    assert len(scores) == 2
    assert all((row / "scores" / "output.log").is_file() for row in (teacher, student))

    second = table("seeds=2")
    assert second.returncode == 0, second.stdout + second.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    with (folder / "table.csv").open() as file:
        rows = [(line["row"], line["seed"]) for line in csv.DictReader(file)]
    assert rows == [("student", "0"), ("student", "1"), ("teacher", "0")]


@pytest.mark.slow
def test_the_table_of_dopsd_is_written_whole(world, tmp_path):
    """Two rounds and one seed of one row beside the base: every file, and no verdict."""
    write_task(figure_task(0, 6, 64), tmp_path / "runs" / "dopsd_pictures" / "figure")
    model = ["model=mini_klein", f"model.path={world.klein}", "model.step_distilled=false"]
    small = ["adapter.rank=2", "adapter.alpha=4", "data.prompts_per_round=2", "trainer.accelerator=cpu"]
    few = [f"benchmark.tasks.{task}.num_prompts=2" for task in ("nearness", "unseen", *TASKS)]
    few += ["benchmark.tasks.nearness.images_per_prompt=1", "benchmark.held_out.frechet.reference.number=8"]
    left_out = ("assistant", "sft_assistant", "dreambooth_pairs", "sft_pairs", "pso_pairs", "dopsd_keep")
    rows = [f"~rows.{row}" for row in left_out]
    done = copies.run(
        tmp_path,
        "table",
        *("rows=dopsd", "seeds=1", "~rows.base_16_steps", *rows, "wins.few_step.against=base"),
        f"shared={json.dumps(model)}",
        f"overrides={json.dumps(['trainer.max_epochs=2', *small])}",
        *(f"rows.{row}.evaluation={json.dumps(few)}" for row in ("base", "dopsd")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "dopsd" / "table1_figure" / "one"
    names = (
        "table.md",
        "table.csv",
        "wins.md",
        "wins.csv",
        "wins.png",
        "index.html",
        "images.png",
        "radar.png",
    )
    assert all((folder / name).is_file() for name in names)
    with (folder / "wins.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["condition"], line["met"]) for line in lines] == [
        ("dopsd", condition, "open") for condition in ("learned", "generalizes", "few_step")
    ]
    assert all(line["difference"] for line in lines)
    page = (folder / "index.html").read_text()
    assert all(text in page for text in ("nearness, dopsd_figure", "Who wins", "dopsd/table1_figure"))


@pytest.mark.parametrize("rows", ["dopsd", "dopsd_style", "dopsd_domain"])
def test_rows_of_dopsd_are_those_that_its_claims_and_conditions_name(rows, tmp_path):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("table", overrides=[f"rows={rows}", f"paths.run={tmp_path}", "seeds=3"])
    found = read_rows(cfg, tmp_path)
    names = {run.row for run in found}
    conditions = read_conditions(OmegaConf.to_container(cfg.wins), sorted(names))
    benchmark = compose_benchmark(cfg.benchmarks[0])
    assert {task for condition in conditions for task in condition.tasks} <= set(benchmark.tasks)
    claims = read_claims(OmegaConf.to_container(cfg.claims))
    sides = {side for claim in claims for side in (claim.method, claim.against)}
    assert sides <= names | {"sft_assistant", "dreambooth_pairs"}  # Table 2 has no such rows
    assert (rows == "dopsd_domain") == ("sft_assistant" not in names)
    seeds = {name: [run.seed for run in found if run.row == name] for name in names}
    assert seeds == {name: [0] if name.startswith("base") else [0, 1, 2] for name in names}


def compose_benchmark(name):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("evaluate", overrides=[f"benchmark={name}", "model=mini_klein"]).benchmark


def test_a_row_is_scored_with_its_own_overrides_and_compared_with_its_like(tmp_path):
    """A row that asks for more steps is not held against the others' number of steps."""

    def row(name, steps, *evaluation):
        run = RowRun(
            row=name,
            seed=0,
            command=None,
            arguments=(),
            teachers={},
            guidance=[1.0],
            note="",
            folder=tmp_path / name / "seed0",
            evaluation=list(evaluation),
        )
        conditions = {"ocr": {"images": 64, "sampler.num_steps": steps}}
        found = dataclasses.replace(result({"ocr": 0.5}), conditions=conditions)
        found.save(run.scores_at("mini", 1.0) / "results.json")
        return run

    more = "benchmark.sampler.num_steps=16"
    rows = [row("base", 4), row("base_16", 16, more)]
    assert len(collect(rows, ["mini"])) == 2
    (command,) = comparison.scoring(rows[1], ["mini"], ["model=mini_klein"], 1)
    assert command.index("model=mini_klein") < command.index(more)
    with pytest.raises(ValueError, match=r"sampler\.num_steps"):
        collect([*rows, row("other", 8)], ["mini"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ('rows.student.arguments=["+experiment=sopd_ocrr"]', "rows.student.arguments: experiment=sopd_ocrr"),
        ("rows.student.command=trian", "rows.student.command=trian must be one of train, cascade, null"),
        ("rows.student.teachers.aesthetic=nobody", "rows.student.teachers names nobody"),
        ("benchmarks=[]", "benchmarks=[] must be a list of texts (at least 1), none of them empty"),
        ("+rows.student.gidance=[1]", "rows.student.gidance is not a setting"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(table, tmp_path, mistake, message):
    refused = table(mistake)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert message in refused.stderr
    assert not list((tmp_path / "runs").glob("small/one/*/seed0"))


def test_rows_of_other_prompts_do_not_stand_in_one_table(tmp_path):
    """Scores made before the benchmark's file was changed stay in their folders."""
    rows = []
    for name, number in (("old", 64), ("new", 12)):
        row = RowRun(
            row=name,
            seed=0,
            command=None,
            arguments=(),
            teachers={},
            guidance=[1.0],
            note="",
            folder=tmp_path / name / "seed0",
        )
        held_out = {"frechet": {"frechet_distance": 1.5, "num_images": number}}
        result({"ocr": 0.5}, by_prompt={"ocr": [0.5] * number}, held_out=held_out).save(
            row.scores_at("mini", 1.0) / "results.json"
        )
        rows.append(row)
    with pytest.raises(
        ValueError, match=r"new/seed0.* and .*old/seed0.* with different settings: ocr, images: 12 and 64"
    ):
        collect(rows, ["mini"])
    (old,) = collect(rows[:1], ["mini"])
    assert old.name == "old"
    assert old.held_out == {"mini": {"frechet": HeldOut(value=1.5, n=64, better="lower")}}
    archive_runs(runs_of(rows), tmp_path / "data")
    assert [(run.name, len(run.results)) for run in find_runs([str(tmp_path / "data")])] == [
        ("old", 1),
        ("new", 1),
    ]


@pytest.mark.parametrize("rows", ["table1", "table1_large", "methods"])
def test_rows_draw_equally_many_images(rows):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        table = compose("table", overrides=[f"rows={rows}", "paths.run=."]).rows
        drawn = {}
        for name, row in table.items():
            if row.command == "train":
                drawn[name] = images_of(row.arguments)
            elif row.command == "cascade":
                stages = compose("cascade", overrides=list(row.arguments)).stages.values()
                drawn[name] = sum(
                    images_of([f"+experiment={stage.experiment}", *stage.overrides]) for stage in stages
                )
    specialists = {name: drawn.pop(name) for name in list(drawn) if name.startswith("teacher_")}
    assert len(set(specialists.values())) == 1
    drawn["opd"] += sum(specialists.values())
    assert max(drawn.values()) <= 1.01 * min(drawn.values())


def rows_of(rows, tmp_path, *overrides):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return compose("table", overrides=[f"rows={rows}", f"paths.run={tmp_path}", "seeds=3", *overrides])


@pytest.mark.parametrize("rows", ["methods", "methods_minutes", "few_step"])
def test_rows_of_a_comparison_are_those_that_its_claims_name(rows, tmp_path):
    cfg = rows_of(rows, tmp_path)
    found = read_rows(cfg, tmp_path)
    seeds = {name: [run.seed for run in found if run.row == name] for name in cfg.rows}
    assert seeds == {name: [0] if name.startswith("base") else [0, 1, 2] for name in cfg.rows}
    claims = read_claims(OmegaConf.to_container(cfg.claims))
    sides = {side for claim in claims for side in (claim.method, claim.against)}
    assert {side for side in sides - set(cfg.rows) if not side.endswith("_minutes")} == set()
    assert rows == "methods" or sides <= set(cfg.rows)
    benchmark = compose_benchmark(cfg.benchmarks[0])
    held_out = {*benchmark.held_out, *benchmark.get("held_out_parts", ())}
    for claim in claims:
        known = held_out if claim.metric == "held_out" else set(benchmark.tasks)
        assert {name.strip() for name in (claim.task or "").split(",") if name} <= known
    assert bool(cfg.get("wins")) == (rows == "few_step")
    if cfg.get("wins"):
        conditions = read_conditions(OmegaConf.to_container(cfg.wins), sorted(seeds))
        assert {task for condition in conditions for task in condition.tasks} <= set(benchmark.tasks)


def test_rows_of_equal_minutes_are_in_the_folder_of_those_of_equal_images(tmp_path):
    images, minutes = (rows_of(rows, tmp_path) for rows in ("methods", "methods_minutes"))
    assert images.name == minutes.name == "methods"
    assert {name: images.rows[name] for name in images.rows} == {
        name: row for name, row in minutes.rows.items() if not name.endswith("_minutes")
    }


def test_every_row_of_a_comparison_passes_the_check(tmp_path):
    cfg = rows_of("methods_minutes", tmp_path)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        check_rows(read_rows(cfg, tmp_path))


@pytest.mark.slow
def test_the_table_of_few_steps_is_written_whole(world, tmp_path):
    """Two rounds and one seed of every row, on a tiny model in the place of both."""
    model = ["model=mini_klein", f"model.path={world.klein}", "model.step_distilled=false"]
    small = ["adapter.rank=2", "adapter.alpha=4", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    small += ["data.tasks.aesthetic.prompts_per_round=1"]
    few = [f"benchmark.tasks.{task}.num_prompts=2" for task in TASKS]
    few += ["benchmark.held_out.frechet.reference.number=8"]
    transformer = f"regulariser.path={world.klein}/transformer"
    cfg = rows_of("few_step", tmp_path)
    arguments = {name: [*row.arguments, *small] for name, row in cfg.rows.items() if row.command}
    for name in arguments:
        arguments[name] = [transformer if x.startswith("regulariser.path=") else x for x in arguments[name]]
        arguments[name] += ["data.tasks.aesthetic.group_size=2"] if name.startswith("reward") else []
    evaluation = {"base_16_steps": [*few, "benchmark.sampler.num_steps=3"]}
    done = copies.run(
        tmp_path,
        "table",
        *("rows=few_step", "seeds=1", f"shared={json.dumps(model)}"),
        *(f"rows.{name}.arguments={json.dumps(given)}" for name, given in arguments.items()),
        *(f"rows.{name}.evaluation={json.dumps(evaluation.get(name, few))}" for name in cfg.rows),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "few_steps" / "one"
    header = (folder / "table.md").read_text().splitlines()[0]
    assert "aesthetic, mini_4_steps" in header
    assert "aesthetic, mini_16_steps" in header
    with (folder / "wins.csv").open() as file:
        judged = {line["row"] for line in csv.DictReader(file)}
    assert judged == {"reward", "reward_held", "taught", "taught_held"}


def test_the_base_is_scored_first_and_the_others_after_all_trainings(tmp_path):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("table", overrides=["rows=table1", f"paths.run={tmp_path}", "seeds=3"])
    jobs = {job.name: job for job in jobs_of(read_rows(cfg, tmp_path), cfg)}
    names = list(jobs)
    trained = [name for name in names if not name.endswith("/scores")]
    assert names[: len(trained) + 1] == ["base/seed0/scores", *trained]
    assert list(jobs["base/seed0/scores"].needs) == []
    assert list(jobs["opd/seed2/scores"].needs) == ["opd/seed2"]
    assert set(jobs["opd/seed2"].needs) == {f"teacher_{task}/seed2" for task in TASKS}
    assert {name.removesuffix("/scores") for name in names} == {*trained, "base/seed0"}
    assert len({job.log for job in jobs.values()}) == len(jobs)


@pytest.mark.parametrize(("seeds", "taught_by"), [("null", 2), ("1", 0)])
def test_a_student_learns_from_teachers_of_its_own_seed_where_there_are(tmp_path, seeds, taught_by):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        overrides = [f"rows.teacher_{task}.seeds={seeds}" for task in TASKS]
        cfg = compose("table", overrides=["rows=table1", "seeds=3", *overrides])
    rows = {run.name: run for run in read_rows(cfg, tmp_path)}
    assert set(rows["opd/seed2"].taught_by.values()) == {f"teacher_{task}/seed{taught_by}" for task in TASKS}
    (command,) = comparison._training(rows["opd/seed2"], list(rows.values()))
    teacher = tmp_path / "teacher_ocr" / f"seed{taught_by}" / "adapter"
    assert f"teacher.teachers.ocr.path={quoted(str(teacher))}" in command


def test_a_second_machine_makes_the_rows_of_later_seeds(tmp_path):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        every, later = (
            {
                run.name: run
                for run in read_rows(compose("table", overrides=["rows=table1", *seeds]), tmp_path)
            }
            for seeds in (["seeds=5"], ["seeds=2", "first_seed=3"])
        )
    assert later == {
        name: run for name, run in every.items() if run.command is None or name[-1] in "34"
    }  # what is not trained has one seed everywhere


def test_a_row_with_seeds_of_its_own_has_them_on_every_machine(tmp_path):
    overrides = ["rows=table1", "seeds=2", "first_seed=3", "rows.teacher_ocr.seeds=1"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        rows = {run.name: run for run in read_rows(compose("table", overrides=overrides), tmp_path)}
    assert [name for name in rows if name.startswith("teacher_ocr")] == ["teacher_ocr/seed0"]
    assert rows["opd/seed4"].taught_by == {
        task: f"teacher_{task}/seed{0 if task == 'ocr' else 4}" for task in TASKS
    }


def test_a_row_whose_adapter_is_another_s_needs_that_at_each_of_its_seeds(tmp_path):
    """As many seeds are not enough: 0 and 1 of one are not 3 and 4 of the other."""
    given = ["rows=table1", "seeds=2", "+rows.opd.adapters={adapter.start:teacher_ocr}"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert read_rows(compose("table", overrides=[*given, "first_seed=3"]), tmp_path)
        other = compose("table", overrides=[*given, "first_seed=3", "rows.teacher_ocr.seeds=2"])
    with pytest.raises(
        ValueError, match=r"adapters\.adapter\.start=teacher_ocr must be a trained row that has its every"
    ):
        read_rows(other, tmp_path)


@pytest.mark.parametrize("first_seed", [0, 3])
def test_every_row_is_checked_at_its_first_seed(tmp_path, first_seed):
    overrides = ["rows=table1", f"first_seed={first_seed}", "rows.opd.arguments=['+experiment=mopd_od']"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        rows = read_rows(compose("table", overrides=overrides), tmp_path)
        with pytest.raises(ConfigError, match=r"rows\.opd\.arguments: .*did you mean"):
            check_rows(rows)


def test_every_trained_row_has_the_table_s_seeds_and_both_guidances(tmp_path):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("table", overrides=["rows=table1", "seeds=3"])
    rows = read_rows(cfg, tmp_path)
    seeds = {name: [run.seed for run in rows if run.row == name] for name in cfg.rows}
    assert seeds == {name: [0] if name == "base" else [0, 1, 2] for name in cfg.rows}
    assert {tuple(run.guidance) for run in rows} == {(1.0, 2.0)}
    claims = read_claims(OmegaConf.to_container(cfg.claims))
    assert {side for claim in claims for side in (claim.method, claim.against)} <= set(seeds)


def test_claims_are_tested_on_the_rows_that_are_kept(tmp_path, capsys):
    """Students of several seeds, each with teachers of its own, are one method."""
    rows = []
    for name, scores in (("opd", (0.8, 0.81, 0.83)), ("multi_nft", (0.5, 0.52, 0.51))):
        for seed, score in enumerate(scores):
            teachers = {"ocr": "teacher_ocr"} if name == "opd" else {}
            path = f"x/teacher_ocr/seed{seed}/adapter"
            settings = {"teacher": {"teachers": {"ocr": {"path": path}}}} if teachers else {}
            folder = tmp_path / name / f"seed{seed}"
            write_run(folder, "mopd_ode", seed, {"train/reward/ocr": [0.1]}, settings=settings)
            result({"ocr": score}).save(folder / "scores" / "mini_guidance_1" / "results.json")
            rows.append(
                RowRun(
                    row=name,
                    seed=seed,
                    command="train",
                    arguments=(),
                    teachers=teachers,
                    guidance=[1.0],
                    note="",
                    folder=folder,
                )
            )
    kept = runs_of(rows)
    archive_runs(kept, tmp_path / "data")
    assert [f"{run.name}/{run.seed}" for run in kept[2:4]] == ["opd/2", "multi_nft/0"]
    claims = OmegaConf.to_container(OmegaConf.load(Path(config_folder()) / "claims" / "table1.yaml"))
    for runs in (kept, find_runs([str(tmp_path / "data")])):
        write_claims(runs, claims, tmp_path / "claims.md", benchmark="mini")
        text = (tmp_path / "claims.md").read_text()
        (line,) = [line for line in text.splitlines() if "DiffusionNFT" in line]
        assert "ends higher than DiffusionNFT on all rewards | 1 | 0.02 |" in line
        assert "| holds | +0.303 (" in line
    assert "holds" in capsys.readouterr().out
    write_claims(kept, {}, tmp_path / "none.md", benchmark="mini")
    assert not (tmp_path / "none.md").exists()


def test_the_base_s_one_run_stands_for_every_seed_of_what_it_is_compared_with(tmp_path):
    rows = []
    for name, scores in (("base", (0.5,)), ("opd", (0.8, 0.81, 0.83))):
        for seed, score in enumerate(scores):
            folder = tmp_path / name / f"seed{seed}"
            trained = name == "opd"
            if trained:
                write_run(folder, "mopd_ode", seed, {"train/reward/ocr": [0.1]})
            held_out = {"alignment": {"value": score / 2, "num_images": 192.0}}
            place = folder / "scores" / "mini_guidance_1" / "results.json"
            result({"ocr": score}, held_out=held_out).save(place)
            rows.append(
                RowRun(
                    row=name,
                    seed=seed,
                    command="train" if trained else None,
                    arguments=(),
                    teachers={},
                    guidance=[1.0],
                    note="",
                    folder=folder,
                )
            )
    shared = {"figure": "", "method": "opd", "against": "base", "level": None, "margin": 0.02}
    claims = {
        "score": {"text": "More of it.", "metric": "final_score", "task": None, **shared},
        "substance": {"text": "More substance.", "metric": "held_out", "task": "alignment", **shared},
    }
    write_claims(runs_of(rows), claims, tmp_path / "claims.md", benchmark="mini")
    lines = (tmp_path / "claims.md").read_text().splitlines()
    assert any("More of it" in line and "| holds | +0.313 (" in line for line in lines)
    assert any("More substance" in line and "| holds | +0.157 (" in line for line in lines)


def images_of(arguments):
    """Images that a training draws."""
    cost = run_cost(plain_values(compose("train", overrides=[*arguments, "paths.run=."])))
    assert cost is not None
    return cost.images


def test_a_damaged_note_or_result_is_scored_again(tmp_path):
    run = comparison.RowRun(
        row="base", seed=0, command=None, arguments=[], teachers={}, guidance=[1.0], note="", folder=tmp_path
    )
    cfg = OmegaConf.create({"benchmarks": ["mini"], "shared": [], "threads_each": 1})
    place = run.scores_at("mini", 1.0)

    def resumes():
        return [
            next(a for a in job if a.startswith("resume="))
            for job in comparison.scoring(run, cfg.benchmarks, cfg.shared, cfg.threads_each)
        ]

    result = EvaluationResult(
        benchmark="mini", seed=0, guidance_scale=1.0, adapter=None, tasks={}, held_out={}
    )
    assert resumes() == ["resume=auto"]
    result.save(place / "results.json")
    assert resumes() == []
    (place / "results.json").write_text("{")
    assert resumes() == ["resume=auto"]  # the evaluation finds its results damaged, and makes them again
    result.save(place / "results.json")
    (place / comparison.MADE_OF).write_text("")
    assert resumes() == ["resume=never"]
    assert resumes() == []
