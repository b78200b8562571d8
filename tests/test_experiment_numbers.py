"""Printed tables of experiments/ follow from the data committed beside them."""

from __future__ import annotations

import csv
import json
import re
import statistics
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from diffopd.config.folder import config_folder
from diffopd.files.sample_sheet import SampleSheet, read_sheet
from diffopd.report.comparison.claims import write_claims
from diffopd.report.comparison.compared import normalised_means, summarise
from diffopd.report.comparison.comparison import read_csv, to_markdown
from diffopd.report.methods.archive import read_archive
from diffopd.report.methods.claims import read_claims
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.measured import Measuring
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.seeds import seed_table
from diffopd.report.methods.verdicts import judge
from diffopd.report.run.gradient_variance import variance_table
from support.scripts import EXPERIMENTS, experiment_script

ROOT = Path(__file__).parents[1]
MOPD = EXPERIMENTS / "mopd_ode"
DEMO = EXPERIMENTS / "mopd_balanced"
ABLATIONS = EXPERIMENTS / "ablations"
ABLATIONS_BEFORE = ABLATIONS / "previous_base"
"""Folders with a page on Figures 5 and 6 and the runs it is made from."""
PREVIOUS = MOPD / "previous_base"
"""What students of an earlier base and its teachers scored, with the cards of these."""
TASKS = ("composition", "ocr", "aesthetic")


def text_of(*parts):
    return EXPERIMENTS.joinpath(*parts).read_text(encoding="utf-8")


def rows_of(text):
    """Cells of every table row."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def scores_in(path):
    """Guidance -> task -> mean, of a student: from a run's table or a single evaluation."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if "rows" in raw:
        return {
            row["guidance_scale"]: {task: row["scores"][task]["mean"] for task in TASKS}
            for row in raw["rows"]
            if row["name"] == "student"
        }
    return {raw["guidance_scale"]: {task: raw["tasks"][task]["value"]["mean"] for task in TASKS}}


def shipped_cards():
    """The base's and each teacher's."""
    assets = ROOT / "src" / "diffopd" / "assets"
    files = {"base": assets / "mini_sd3", **{task: assets / "teachers" / task for task in TASKS}}
    return {name: json.loads((folder / "card.json").read_text()) for name, folder in files.items()}


def previous_cards():
    return {name: json.loads((PREVIOUS / "cards" / f"{name}.json").read_text()) for name in ("base", *TASKS)}


def card_scores(cards, benchmark):
    """Base and each task's own teacher, without guidance."""
    base = cards["base"]["scores"]["guidance 1"][benchmark]
    own = {task: cards[task]["scores"][benchmark][task] for task in TASKS}
    return {task: base[task]["mean"] for task in TASKS}, {task: own[task]["mean"] for task in TASKS}


def kept(scores, benchmark="mini"):
    """Share of each teacher's gain, in percent, as it is printed."""
    base, teachers = card_scores(previous_cards(), benchmark)
    return [f"{(scores[task] - base[task]) / (teachers[task] - base[task]):.0%}" for task in TASKS]


def spelt(scores):
    return " / ".join(f"{scores[task]:.3f}" for task in TASKS)


def current_part():
    """The page up to what was measured with the wording before."""
    return text_of("mopd_ode", "previous_base", "README.md").partition("## With the wording before")[0]


def test_students_of_mopd_ode():
    rows = [row for row in rows_of(current_part()) if len(row) == 4 and row[0].isdigit()]
    assert len(rows) == 12
    checked = 0
    for rounds, seed, student, share in rows:
        path = PREVIOUS / f"seed{seed}_{rounds}_rounds.json"
        if not path.is_file():  # seeds 1 and 2 after 220 rounds are ablations'
            assert (rounds, seed) in {("220", "1"), ("220", "2")}
            continue
        scores = scores_in(path)[1.0]
        assert student == spelt(scores), path.name
        assert share.split(" / ") == kept(scores), path.name
        checked += 1
    assert checked == 10


def test_students_of_220_rounds_are_those_of_the_ablations():
    scores = ablation_scores(ABLATIONS_BEFORE)["mopd_ode", 1.0]
    rows = [row for row in rows_of(current_part()) if len(row) == 4 and row[0] == "220" and row[1] != "0"]
    assert [row[1] for row in rows] == ["1", "2"]
    for _, seed, student, share in rows:
        assert student == spelt(scores[int(seed)])
        assert share.split(" / ") == kept(scores[int(seed)])


def test_students_of_mopd_ode_on_the_large_benchmark():
    rows = [row for row in rows_of(current_part()) if len(row) == 6 and row[0].endswith("rounds")]
    shares = {}
    for rounds, seed, *scores, share in rows:
        number = rounds.split()[0]
        found = scores_in(PREVIOUS / f"seed{seed}_{number}_rounds_mini_large.json")[1.0]
        assert scores == [f"{found[task]:.3f}" for task in TASKS], (rounds, seed)
        assert share.strip("*").split(" / ") == kept(found, "mini_large"), (rounds, seed)
        if number == "800":
            base, teachers = card_scores(previous_cards(), "mini_large")
            shares[seed] = [(found[t] - base[t]) / (teachers[t] - base[t]) for t in TASKS]
    means = [f"{100 * statistics.fmean(column):.0f}" for column in zip(*shares.values(), strict=True)]
    assert f"Means of the three after 800: {means[0]}, {means[1]} and {means[2]} %" in current_part()
    base, teachers = card_scores(previous_cards(), "mini_large")
    assert ["base", "", *(f"{base[task]:.3f}" for task in TASKS), ""] in rows_of(current_part())
    assert ["each task's teacher", "", *(f"{teachers[task]:.3f}" for task in TASKS), ""] in rows_of(
        current_part()
    )


def test_students_with_the_wording_before():
    part = text_of("mopd_ode", "previous_base", "README.md").partition("## With the wording before")[2]
    rows = [row for row in rows_of(part) if len(row) == 5 and row[0].isdigit()]
    assert len(rows) == 8
    for rounds, seed, student, _, guided in rows:
        scores = scores_in(PREVIOUS / "wording_before" / f"seed{seed}_{rounds}_rounds.json")
        assert student == spelt(scores[1.0])
        assert guided == spelt(scores[2.0])


@cache
def method_of(folder):
    """The runs of one command with several seeds."""
    runs = [read_archive(path) for path in sorted((folder / "data").iterdir())]
    (method,) = group_runs(runs, {}, include_unfinished=False)
    return method


def shares_of(method, scale):
    """Task -> median of its teacher's gain that was kept, least, most, in percent as they are printed."""
    runs = [run.table["gain_kept"][f"{scale:.1f}"] for run in method.runs.values()]
    kept = {task: sorted(100 * run[task] for run in runs) for task in TASKS}
    return {task: (statistics.median(shares), shares[0], shares[-1]) for task, shares in kept.items()}


@cache
def five_seeds(folder):
    """The students of README and the demo page, or those of ``mopd_ode``."""
    method = method_of(folder)
    assert sorted(method.runs) == [0, 1, 2, 3, 4]
    table = seed_table(method)
    assert table is not None
    return method, table


@pytest.mark.parametrize(("folder", "others"), [(MOPD, []), (DEMO, [ROOT / "docs" / "demo.md"])])
def test_the_table_of_five_seeds_is_printed_where_it_is_shown(folder, others):
    _, table = five_seeds(folder)
    assert (folder / "seeds.md").read_text(encoding="utf-8") == table.to_markdown()
    lines = {tuple(line) for line in table.lines}
    for page in (folder / "README.md", *others):
        assert lines <= {tuple(row) for row in rows_of(page.read_text(encoding="utf-8"))}, page


def test_what_other_settings_and_more_rounds_kept():
    method, _ = five_seeds(DEMO)
    rows = method.runs[0].table["rows"]
    means = {(row["name"], row["guidance_scale"]): row["scores"] for row in rows}
    page = rows_of(text_of("mopd_ode", "README.md"))
    files = {
        "`balance=remaining_gap`, 300 rounds": "balanced_300_rounds",
        "`loss=velocity_uniform`, 300 rounds": "velocity_uniform_300_rounds",
        "both, 300 rounds": "balanced_velocity_uniform_300_rounds",
        "as it is, 600 rounds": "equal_600_rounds",
    }
    for label, name in files.items():
        for scale in (1, 2):
            found = scores_in(MOPD / "more_rounds" / f"{name}_guidance_{scale}.json")[float(scale)]
            shares = []
            for task in TASKS:
                base = means["base", float(scale)][task]["mean"]
                gain = means[f"teacher: {task}", 1.0][task]["mean"] - base
                shares.append(f"{100 * (found[task] - base) / gain:.0f}")
            scores = [f"{found[task]:.3f}" for task in TASKS]
            assert [label, str(scale), *scores, " / ".join(shares)] in page


def test_the_readme_s_table_is_part_of_the_seeds():
    method, table = five_seeds(DEMO)
    found = {
        (row["name"], row["guidance_scale"]): row["scores"] for row in method.runs[table.median].table["rows"]
    }

    def cells(*keys):
        scores = [found[key][task] for key, task in zip(keys, TASKS, strict=True)]
        return [f"{score['mean']:.3f} ±{(score['high'] - score['low']) / 2:.3f}" for score in scores]

    rows = {row[0]: row[1:] for row in rows_of((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert rows["base model"] == cells(*[("base", 1.0)] * 3)
    assert rows["base model at CFG scale 2"] == cells(*[("base", 2.0)] * 3)
    assert rows["the task's own teacher"] == cells(*((f"teacher: {task}", 1.0) for task in TASKS))
    for scale, student, share in (
        (1.0, "student after 300 rounds, median of five seeds", "gain kept, median and range of the seeds"),
        (2.0, "the same student at CFG scale 2", "gain kept at CFG scale 2"),
    ):
        assert rows[student] == cells(*[("student", scale)] * 3)
        assert rows[share] == [
            f"{median:.0f} % ({least:.0f} to {most:.0f})"
            for median, least, most in shares_of(method, scale).values()
        ]


def test_gaps_at_the_end_of_the_demo():
    """Mean over a run's last 60 rounds; least and most of the seeds."""
    names = [*(f"gap/{task}" for task in TASKS), "step_gap/0", "step_gap/8"]
    page = rows_of(text_of("mopd_balanced", "README.md"))
    folders = {
        "Eq. 12, 330 rounds": DEMO / "eq_12_falling_rate",
        "330 rounds, from the first round's gap": DEMO / "330_rounds",
        "as it is": DEMO,
    }
    for label, folder in folders.items():
        cells = []
        for name in names:
            runs = method_of(folder).runs.values()
            means = [statistics.fmean(run.series[f"train/{name}"].values[-60:]) for run in runs]
            cells.append(f"{min(means):.4f} to {max(means):.4f}")
        assert [label, *cells] in page, cells


def test_what_the_demo_s_other_settings_kept():
    folders = {
        "Eq. 12, equal tasks, constant rate, 220 rounds": MOPD,
        "Eq. 12, constant rate, 320 rounds": DEMO / "eq_12",
        "Eq. 12, 330 rounds": DEMO / "eq_12_falling_rate",
        "330 rounds, from the first round's gap": DEMO / "330_rounds",
        "as it is": DEMO,
        "600 rounds": DEMO / "600_rounds",
    }
    page = rows_of(text_of("mopd_balanced", "README.md"))
    for label, folder in folders.items():
        method = method_of(folder)
        for scale in (1, 2):
            shares = [f"{a:.0f} ({b:.0f} to {c:.0f})" for a, b, c in shares_of(method, scale).values()]
            assert [label, str(len(method.runs)), str(scale), *shares] in page, label


def test_the_readme_s_picture_is_made_from_a_run_s_report_alone(tmp_path, capsys):
    module = experiment_script("mopd_ode/strip")
    models = ("base", "composition\nteacher", "ocr\nteacher", "aesthetic\nteacher", "student")
    colours = [[(40 * column, 20 * row, 0) for column in range(5)] for row in range(9)]
    SampleSheet(
        columns=models,
        prompts=[(task, f"prompt {number}") for task in TASKS for number in range(3)],
        scores=[[0.1 * column for column in range(5)]] * 9,
        rule="The rule.",
        images=[[Image.new("RGB", (128, 128), colour) for colour in row] for row in colours],
    ).save(tmp_path / "run" / "report" / "samples.png")
    module.make(tmp_path / "run", tmp_path)
    assert "The rule." in capsys.readouterr().out
    assert read_sheet(tmp_path / module.SAMPLES).columns == models
    with Image.open(tmp_path / module.STRIP) as strip:
        lefts = [112 + 102 * number + 18 * (number // 3) for number in range(9)]
        found = [[strip.getpixel((x + 48, 108 + 116 * row + 48)) for row in range(5)] for x in lefts]
    assert found == colours


def test_the_readme_s_picture_is_the_demo_page_s_on_its_side():
    module = experiment_script("mopd_ode/strip")
    page = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    assert "images/demo_samples.png" in page
    assert "docs/images/demo_strip.png" in (ROOT / "README.md").read_text(encoding="utf-8")
    try:
        sheet = read_sheet(module.IMAGES / module.SAMPLES)
    except ValueError:
        pytest.skip("the committed picture is of before a run's samples say what they show")
    with Image.open(module.IMAGES / module.STRIP) as strip:
        assert strip.convert("RGB").tobytes() == sheet.strip().tobytes()
    for task, text in sheet.prompts:
        (file,) = (ROOT / "src" / "diffopd" / "assets" / "prompts" / task).glob("test.*")
        assert text in file.read_text(encoding="utf-8").replace('\\"', '"')


def few_step_scores(name):
    raw = json.loads(text_of("mini_klein", "scores.json"))[name]
    scores = [raw["tasks"][task]["value"]["mean"] for task in TASKS]
    return [f"{score:.3f}" for score in (*scores, raw["held_out"]["frechet"]["frechet_distance"])]


def test_the_few_step_model_is_within_a_tenth_of_its_base():
    page = rows_of(text_of("mini_klein", "README.md"))
    base, distilled = few_step_scores("after stage 4"), few_step_scores("distilled, 4 steps")
    assert ["base, after stage 4", "40", "2.5", *base] in page
    assert ["distilled", "4", "1", *distilled] in page
    assert all(float(few) >= 0.9 * float(many) for few, many in zip(distilled[:2], base[:2], strict=True))


@pytest.mark.parametrize("stage", [2, 3, 4])
def test_the_few_step_model_s_base(stage):
    page = rows_of(text_of("mini_klein", "README.md"))
    assert [str(stage), *few_step_scores(f"after stage {stage}")] in page
    errors = json.loads(text_of("mini_klein", f"reference_gain_after_stage_{stage}.json"))
    kinds = ("text", "copy", "elsewhere, text", "elsewhere")
    for sigma in errors["text"]:
        assert [str(stage), sigma, *(f"{errors[kind][sigma]:.4f}" for kind in kinds)] in page


@pytest.mark.parametrize(
    "place", [("table1",), ("table1", "previous_base"), ("table1", "previous_base", "larger_budget")]
)
def test_tables_follow_from_every_seed(place):
    summaries = summarise(read_csv(EXPERIMENTS.joinpath(*place) / "table.csv"))
    table = to_markdown(summaries, normalised_means(summaries))
    assert text_of(*place, "table.md") == table
    assert table.partition("\n\n")[0] in text_of(*place, "README.md")


def test_the_claims_of_table_1_follow_from_its_runs(tmp_path):
    runs = find_runs([str(EXPERIMENTS / "table1" / "data")])
    with initialize_config_dir(config_folder(), version_base="1.3"):
        claims = OmegaConf.to_container(compose("table", overrides=["rows=table1"]).claims)
    write_claims(runs, claims, tmp_path / "claims.md", benchmark="mini")
    text = (tmp_path / "claims.md").read_text()
    assert text == text_of("table1", "claims.md")
    page = text_of("table1", "README.md")
    assert text.rstrip() in page
    held = text.count("| holds |")
    assert f"These four of {held + text.count('| open: ')} tests hold" in page
    assert held == 4


def test_the_table_of_a_figure_follows_from_its_runs():
    page, place = text_of("dopsd", "README.md"), ("dopsd", "table1_figure")
    summaries = summarise(read_csv(EXPERIMENTS.joinpath(*place) / "table.csv"))
    assert text_of(*place, "table.md") == to_markdown(summaries, normalised_means(summaries))
    for file in ("table.md", "wins.md", "claims.md"):
        assert text_of(*place, file).rstrip("\n") in page, file


def test_what_the_docs_say_of_the_table_of_a_figure():
    page = (ROOT / "docs" / "dopsd_tables.md").read_text(encoding="utf-8")
    names = {"base": "untrained"}
    for found in summarise(read_csv(EXPERIMENTS / "dopsd" / "table1_figure" / "table.csv")):
        if found.name in ("base_16_steps", "assistant"):
            continue
        scores = {task: score.mean for (_, task), score in found.scores.items()}
        before = statistics.fmean(scores[task] for task in TASKS)
        cells = [f"{value:.3f}".lstrip("0") for value in (scores["unseen"], before)]
        minutes = f"{found.minutes:.1f}".removeprefix("0") if found.minutes else ""
        name = names.get(found.name, f"`{found.name}`")
        assert f"| {name} | {cells[0]} | {cells[1]} | {minutes}".rstrip() in page, found.name


def test_gradient_variances():
    raw = json.loads(text_of("gradient_variance", "gradient_variance.json"))
    printed = text_of("gradient_variance", "README.md")
    lines = variance_table(raw["levels"]).strip().splitlines()
    assert len(lines) > 30
    for line in lines:
        assert line in printed, line


def test_soak():
    trials = json.loads(text_of("soak", "soak.json"))["trials"]
    counts = {
        row[0]: row[1:] for row in rows_of(text_of("soak", "soak.md")) if row[0] not in ("Phase", "---")
    }
    for phase, cells in counts.items():
        own = [trial for trial in trials if trial["phase"] == phase]
        at_checkpoints = [t for t in own if t["killed"] and "of the time" not in t["kill"]]
        lost = max(trial["lost"] for trial in own)
        assert cells == [
            str(len(own)),
            str(sum(trial["killed"] for trial in own)),
            str(len(at_checkpoints)),
            str(sum(trial["survived"] for trial in own)),
            str(sum(not trial["differs"] for trial in own)),
            str(lost),
        ]


def test_soak_s_page_has_the_sums_of_its_trials():
    trials = json.loads(text_of("soak", "soak.json"))["trials"]
    killed = [trial for trial in trials if trial["killed"]]
    at_checkpoints = [trial for trial in killed if "of the time" not in trial["kill"]]
    assert not any(trial["differs"] for trial in trials)
    page = " ".join(text_of("soak", "README.md").split())
    assert f"{len(trials)} trials" in page
    assert f"{len(killed)} were killed, {len(at_checkpoints)} of them while" in page
    assert f"all {len(trials)} ended equal" in page
    assert f"at most {max(trial['lost'] for trial in trials)} rounds were lost" in page


def test_fuzz_sums():
    rows = [row for row in rows_of(text_of("fuzz", "README.md")) if len(row) == 5 and row[1].isdigit()]
    *single, (name, *totals) = rows
    assert name == "`all`"
    columns = [[int(cell) for cell in column] for column in list(zip(*single, strict=True))[1:]]
    assert [sum(column) for column in columns] == [int(total) for total in totals]
    assert all(int(row[1]) == sum(map(int, row[2:])) for row in rows)


def test_scores_of_the_embedded_model():
    scores = shipped_cards()["base"]["scores"]
    rows = {row[0]: row[1:4] for row in rows_of(text_of("mini_sd3", "README.md")) if len(row) == 5}
    for scale in ("1", "1.5", "2", "3"):
        found = [scores[f"guidance {scale}"]["mini"][task] for task in TASKS]
        assert rows[scale] == [f"{s['mean']:.3f} ({(s['high'] - s['low']) / 2:.3f})" for s in found]


def test_scores_and_shares_of_the_shipped_teachers():
    page = text_of("teachers", "README.md")
    cards = shipped_cards()
    printed, (base, own) = rows_of(page), card_scores(cards, "mini_large")
    shares = {row[0]: row for row in printed if len(row) == 8}
    for task in TASKS:
        card = cards[task]
        scores = [f"{card['scores']['mini'][other]['mean']:.3f}" for other in TASKS]
        assert [f"teacher: {task}", *scores] in printed
        _, _, minutes, before, after, gain, best, share = shares[task]
        assert minutes == f"{card['recipe']['minutes']:.0f}"
        assert [before, after] == [f"{base[task]:.3f}", f"{own[task]:.3f}"]
        assert float(gain.split()[0]) == pytest.approx(own[task] - base[task], abs=6e-4)
        assert share == f"{100 * (own[task] - base[task]) / (float(best) - base[task]):.0f} %"


def test_what_600_rounds_of_the_demo_are_said_to_keep():
    method = method_of(DEMO / "600_rounds")
    for scale in (1, 2):
        assert all(median > 90 for median, _, _ in shares_of(method, scale).values())
    assert all(least > 91 for _, least, _ in shares_of(method, 2).values())
    for page in (ROOT / "README.md", ROOT / "docs" / "demo.md", DEMO / "README.md"):
        assert "above 90 %" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["guard_scores", "large_scores"])
def test_scores_of_other_teachers_and_guidances(name):
    table = experiment_script("teachers/collect").table(json.loads(text_of("teachers", f"{name}.json")))
    printed = rows_of(text_of("teachers", "README.md"))
    for row in rows_of(table)[1:]:
        assert row in printed


def test_diversity_of_every_teacher_that_was_trained():
    page = rows_of(text_of("teachers", "README.md"))
    (runs,) = (row[1:] for row in page if row[0] == "diversity within a group")
    files = [
        name.replace("GRPO-Guard: ", "guard_") if "Guard" in name else f"teacher_{name}" for name in runs
    ]
    values = []
    for file in files:
        rows = csv.DictReader(text_of("teachers", f"{file}_metrics.csv").splitlines())
        values.append([float(row["train/drift/diversity"]) for row in rows])
    assert ["first round", *(f"{value[0]:.3f}" for value in values)] in page
    assert ["last round", *(f"{value[-1]:.3f}" for value in values)] in page
    assert all(value[-1] >= value[0] / 2 for value in values)


def test_what_the_ablations_are_read_to_say_of_composition():
    means = {
        method: statistics.fmean(seed["composition"] for seed in seeds.values())
        for (method, scale), seeds in ablation_scores(ABLATIONS_BEFORE).items()
        if scale == 1
    }
    shown = {method: f"{mean:.3f}".removeprefix("0") for method, mean in means.items()}
    text = " ".join(text_of("ablations", "previous_base", "README.md").split())
    assert (
        f"DMD ({shown['mopd_dmd']}) and TDM ({shown['mopd_tdm']}) end below the base ({shown['base']}), "
        f"SFT ({shown['mopd_sft']}) hardly above it, OPD at {shown['mopd_ode']}"
    ) in text


def test_bench_ratios_and_memory():
    raw = json.loads(text_of("bench", "opd_round.json"))
    printed = rows_of(text_of("bench", "opd_round.md"))
    rows = {row[0]: row[1:] for row in printed if len(row) == 4}
    pairs = {
        "round: fused, not two-pass": ("fused round", "two-pass round"),
        "round: tasks together, not in turn": ("fused round", "round, task by task"),
        "round: prompts encoded before it": ("fused round", "round with encoding"),
        "teachers: one batch, not in turn": ("teachers, mixed batch", "teachers, one by one"),
        "prompts: read, not encoded again": ("prompts, known", "prompts, encoded"),
    }
    for name, (faster, slower) in pairs.items():
        fast, slow = raw["ways"][faster], raw["ways"][slower]
        turns = [theirs / ours for ours, theirs in zip(fast["seconds"], slow["seconds"], strict=True)]
        ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
        memory = fast["peak_bytes"] / slow["peak_bytes"]
        assert rows[name] == [f"{ratio:.2f}", f"{min(turns):.2f} to {max(turns):.2f}", f"x {memory:.2f}"], (
            name
        )
    for way, peaks in raw["peak_bytes_by_steps"].items():
        ten, forty = peaks["10"], peaks["40"]
        assert [way, f"{ten / 2**20:.1f}", f"{forty / 2**20:.1f}", f"{forty / ten:.3f}"] in printed, way


def test_bench():
    ways = json.loads(text_of("bench", "opd_round.json"))["ways"]
    printed = rows_of(text_of("bench", "opd_round.md"))
    for name, way in ways.items():
        seconds = way["seconds"]
        times = [1000 * value for value in (statistics.median(seconds), min(seconds), max(seconds))]
        peak = way["peak_bytes"] / 2**20
        assert [name, *(f"{time:.1f}" for time in times), f"{peak:.1f}"] in printed, name


OF_FIGURE_5 = ("mopd_ode", "mopd_dmd", "mopd_tdm", "mopd_sft")
SEEDS = {
    **dict.fromkeys(OF_FIGURE_5, 4),
    **dict.fromkeys(("mopd_kl_03", "mopd_kl_07", "mopd_ppo_07", "mopd_ppo_sum_07"), 2),
}
"""Of each method of ``experiments/ablations``."""
SEEDS_BEFORE = dict.fromkeys((*OF_FIGURE_5, "mopd_kl_03", "mopd_kl_07", "mopd_ppo_07"), 3)


@cache
def ablation_runs(folder):
    """Every run that a page of ablations is made from."""
    return [read_archive(path) for path in sorted((folder / "data").iterdir())]


def ablation_scores(folder):
    """Method and guidance -> seed -> task -> score; the base's as the reports have it."""
    found = {}
    for run in ablation_runs(folder):
        for _, result in run.results:
            scores = {task: result.scores[task].mean for task in TASKS}
            found.setdefault((run.name, result.guidance_scale), {})[run.seed] = scores
        for row in run.table.get("rows", ()):
            if row["name"] == "base":
                scores = {task: row["scores"][task]["mean"] for task in TASKS}
                found["base", row["guidance_scale"]] = {0: scores}
    return found


def mean_of_tasks(seeds):
    return {seed: statistics.fmean(scores[task] for task in TASKS) for seed, scores in seeds.items()}


@pytest.mark.parametrize(("folder", "seeds"), [(ABLATIONS, SEEDS), (ABLATIONS_BEFORE, SEEDS_BEFORE)])
def test_ablations_have_the_seeds_of_each_method_and_name_their_commits(folder, seeds):
    runs = [run for run in ablation_runs(folder) if run.name != "gradient_variance"]
    found = {name: sorted(run.seed for run in runs if run.name == name) for name in seeds}
    assert found == {name: list(range(number)) for name, number in seeds.items()}
    assert len(runs) == sum(seeds.values())
    assert all(run.finished for run in runs)
    page = (folder / "README.md").read_text(encoding="utf-8")
    for commit in {run.commit for run in runs}:
        assert f"at commit {commit}" in page


@pytest.mark.parametrize(("folder", "num_methods"), [(ABLATIONS, 9), (ABLATIONS_BEFORE, 8)])
def test_ablations_scores_and_means(folder, num_methods):
    printed = rows_of((folder / "README.md").read_text(encoding="utf-8"))
    scores = ablation_scores(folder)
    assert len(scores) == 2 * num_methods
    for (method, scale), seeds in scores.items():
        cells = [" / ".join(f"{seeds[seed][task]:.3f}" for seed in sorted(seeds)) for task in TASKS]
        mean = statistics.fmean(mean_of_tasks(seeds).values())
        wanted = [f"{scale:g}", *cells, f"{mean:.3f}"]
        assert any(row[1:] == wanted for row in printed), (method, scale, wanted)


@pytest.mark.parametrize("folder", [ABLATIONS, ABLATIONS_BEFORE])
def test_verdicts_of_the_ablations(folder):
    """As ``python -m diffopd.report`` judges the runs of ``data/``."""
    settings = yaml.safe_load((ROOT / "conf" / "report.yaml").read_text(encoding="utf-8"))
    claims = read_claims(yaml.safe_load((ROOT / "conf" / "claims" / "figures.yaml").read_text()))
    methods = group_runs(ablation_runs(folder), {}, include_unfinished=False)
    measuring = Measuring(benchmark=settings["benchmark_name"], window=settings["running_mean"])
    page = (folder / "README.md").read_text(encoding="utf-8")
    printed = [row for row in rows_of(page) if row[0].startswith("Figure ")]
    every = judge(claims, methods, measuring, test=settings["test"])
    verdicts = [verdict for verdict in every if not verdict.no_runs]
    assert f"for all {len(verdicts)} tests of the page" in page
    for verdict, row in zip(verdicts, printed, strict=True):
        digits = 0 if verdict.claim.metric.endswith("_to_level") else 3
        found = verdict.difference
        values = [f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high)]
        unit = " rounds" if digits == 0 else ""
        assert row == [
            verdict.claim.figure,
            verdict.claim.text.rstrip("."),
            "" if verdict.guidance is None else f"{verdict.guidance:g}",
            verdict.outcome,
            f"{values[0]} ({values[1]} to {values[2]}){unit}",
            verdict.shown_p,
            f"{verdict.p_equivalent:.3f}",
        ]


def test_the_plan_of_seeds_is_made_from_the_committed_runs():
    module = experiment_script("seeds_needed")
    made = module.page(module.judged(module.pilot(EXPERIMENTS / "ablations")))
    assert text_of("ablations", "seeds.md") == made
    for name in ("mini", "mini_large"):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            tasks = compose("evaluate", overrides=[f"benchmark={name}"]).benchmark.tasks.values()
        prompts = [task.num_prompts or num_prompts(task.path) for task in tasks]
        assert statistics.fmean(prompts) == (module.MINI if name == "mini" else module.LARGE)
        images = {task.images_per_prompt for task in tasks}
        assert images == {1 if name == "mini" else module.LARGE_IMAGES}


def num_prompts(path):
    place = ROOT / "src" / "diffopd" / path.removeprefix("package://")
    return len(place.read_text(encoding="utf-8").splitlines())


def test_what_the_docs_say_of_pairs_is_in_the_plan():
    correlations = [
        row[5] for row in rows_of(text_of("ablations", "seeds.md")) if row[0].startswith("scores")
    ]
    shown = " and ".join(text.replace("0.", ".") for text in correlations)
    assert f"correlations over seeds were {shown}" in (ROOT / "docs" / "report.md").read_text()


def test_claims_cite_the_figures_that_show_them():
    """In the paper noise levels are Figure 6; Figure 7 has pictures."""
    names = ["conf/claims/figures.yaml", "experiments/ablations/README.md"]
    names += ["docs/report.md", "docs/ablations.md"]
    for name in names:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"Figures? (5, 6(,| and) )?7", text), name
