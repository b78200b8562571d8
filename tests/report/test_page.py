"""Runs as one page: methods and bands by hand, what it holds, what it says where something is missing."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from diffopd.config.folder import config_folder
from diffopd.files.grid import enlarged
from diffopd.files.png import save_png
from diffopd.files.sample_sheet import SampleSheet, read_sheet
from diffopd.report.__main__ import run as report_command
from diffopd.report.methods import figures as method_figures
from diffopd.report.methods.bands import band_by_minutes, band_by_round
from diffopd.report.methods.costs import cost_table
from diffopd.report.methods.curves import curve_families
from diffopd.report.methods.figures import curve_figure, styles_of
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.images import method_grids
from diffopd.report.methods.methods import differing_settings, group_runs
from diffopd.report.methods.runs import ARCHIVE, Series
from diffopd.report.methods.step_curves import step_band
from diffopd.report.methods.tables import score_tables
from support.report_page import page_of
from support.run_folders import result, write_run, write_samples

REWARD = "train/reward/ocr"


def methods_in(folder, *, labels=(), include_unfinished=False):
    return group_runs(find_runs([str(folder)]), dict(labels), include_unfinished=include_unfinished)


def test_runs_that_differ_only_in_their_seed_are_one_method(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", "a", seed, {REWARD: [0.5]})
    noisy = {"sampler": {"noise_level": 0.7, "guidance_scale": 1.0}}
    write_run(tmp_path / "noisy", "a", 0, {REWARD: [0.5]}, settings=noisy)
    methods = methods_in(tmp_path, labels={"a, sampler.noise_level=0.7": "noisy"})
    assert [(m.key, m.label, list(m.runs)) for m in methods] == [
        ("a, sampler.noise_level=0", "a, sampler.noise_level=0", [0, 1]),
        ("a, sampler.noise_level=0.7", "noisy", [0]),
    ]
    assert differing_settings(methods) == {"sampler.noise_level": ["0", "0.7"]}
    with pytest.raises(ValueError, match="labels has b, and no run is called that; there are a, sampler"):
        methods_in(tmp_path, labels={"b": "B"})


def test_runs_that_do_not_count_are_kept_with_the_reason(tmp_path):
    write_run(tmp_path / "done", "a", 0, {REWARD: [0.5]})
    write_run(tmp_path / "again", "a", 0, {REWARD: [0.5]})
    write_run(tmp_path / "going", "a", 1, {REWARD: [0.5]}, finished=False)
    write_run(tmp_path / "longer", "a", 2, {REWARD: [0.5]})
    more = {"trainer": {"max_epochs": 9}}  # went on after it had ended with one round
    write_run(tmp_path / "more", "a", 3, {REWARD: [0.5]}, settings=more)
    (tmp_path / "done" / "previous_1").mkdir()
    (tmp_path / "done" / "previous_1" / "metrics.csv").write_text("step\n")
    first, second = methods_in(tmp_path)
    assert list(first.runs) == [0, 2]
    assert [(run.folder.name, why) for run, why in first.left_out] == [
        ("done", f"same method and seed as {tmp_path / 'again'}"),
        ("going", "not finished"),
    ]
    assert (list(second.runs), second.left_out[0][1]) == ([], "not finished")
    assert list(methods_in(tmp_path, include_unfinished=True)[0].runs) == [0, 1, 2]


def test_a_cascade_is_one_run_of_all_its_stages(tmp_path):
    place = tmp_path / "cascade_nft" / "seed0"
    adapter = {"adapter": {"rank": 2, "start": "elsewhere"}}
    write_run(place / "1_ocr", "teacher_ocr", 0, {REWARD: [0.1, 0.2]}, settings=adapter)
    second = {"train/reward/aesthetic": [0.3, 0.4, 0.5]}
    write_run(place / "2_aesthetic", "teacher_aesthetic", 0, second, settings=adapter, seconds=30)
    (run,) = find_runs([str(tmp_path)])
    assert (run.name, run.finished, run.num_rounds, list(run.config_texts)) == (
        "cascade_nft",
        True,
        5,
        ["1_ocr", "2_aesthetic"],
    )
    assert run.series["train/reward/aesthetic"] == Series([3, 4, 5], [0.3, 0.4, 0.5])
    assert list(run.minutes.values()) == pytest.approx([1, 2, 2.5, 3, 3.5])


def test_a_place_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runs has .*/absent, but there is no such folder"):
        find_runs([str(tmp_path / "absent")])
    with pytest.raises(ValueError, match="no folder there holds a run"):
        find_runs([str(tmp_path)])


def test_a_band_by_round_goes_as_far_as_every_seed():
    short, long = Series([1, 2, 3], [0.0, 3.0, 6.0]), Series([1, 3, 4], [2.0, 2.0, 9.0])
    band = band_by_round([short, long], window=1)
    assert (band.x.tolist(), band.mean.tolist()) == ([1, 3], [1.0, 4.0])
    assert (band.low.tolist(), band.high.tolist(), band.num_seeds) == ([0.0, 2.0], [2.0, 6.0], 2)
    smooth = band_by_round([Series(range(1, 10), [0.0, 3.0, 6.0, *[0.0] * 6])], window=3)
    assert smooth.mean.tolist() == [1.5, 3.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert band_by_round([Series([1], [0.0]), Series([2], [0.0])], window=1) is None


def test_a_band_by_minutes_interpolates_between_rounds():
    slow = (Series([1, 2], [0.0, 4.0]), {1: 1.0, 2: 5.0})
    fast = (Series([1, 2, 3], [2.0, 2.0, 8.0]), {1: 0.5, 2: 2.0, 3: 3.0})
    band = band_by_minutes([slow, fast], window=1, num_points=3)
    assert band.x.tolist() == [1.0, 2.0, 3.0]
    assert (band.low.tolist(), band.high.tolist()) == ([0.0, 1.0, 2.0], [2.0, 2.0, 8.0])
    assert band.mean.tolist() == [1.0, 1.5, 5.0]
    assert band_by_minutes([(slow[0], {})], window=1) is None


def test_scores_are_means_and_intervals_and_costs_means_and_ranges_over_seeds(tmp_path):
    images = {"train/cost/images": [6.0, 6.0]}
    for seed, score in enumerate((0.4, 0.6)):
        scores = {"ocr": score, "composition": 0.2}
        write_run(tmp_path / str(seed), "a", seed, images, scores=scores, seconds=60 * (seed + 1))
    base = {"name": "base", "guidance_scale": 2.0, "scores": {"ocr": {"mean": 0.1, "n": 64}}}
    student = {"name": "student", "guidance_scale": 1.0, "scores": {}}
    table = {"title": "mini: reward by task", "rows": [base, student], "gain_kept": {}}
    (tmp_path / "0" / "report" / "table.json").write_text(json.dumps(table))
    methods = methods_in(tmp_path)
    (scores,) = score_tables(methods, [])
    assert scores.columns == ["composition", "ocr", "mean of tasks"]
    assert [(row.name, row.num_seeds, row.cells) for row in scores.rows] == [
        ("base", None, ["-", "0.100", "-"]),
        ("a", 2, ["0.200 ±?", "0.500 ±1.271", "0.350 ±0.635"]),
    ]
    costs = cost_table(methods)
    assert dict(zip(costs.columns, costs.rows["a"], strict=True)) == {
        "seeds": "2",
        "rounds": "2",
        "minutes of training": "3.0 (2.0 to 4.0)",
        "images drawn": "12",
        "images scored": "-",
        "seconds per round": "90.00 (60.00 to 120.00)",
        "peak memory of the process, GiB": "0.50 (0.50 to 0.50)",
    }


def test_what_nothing_is_trained_on_stands_below_the_scores(tmp_path):
    for seed, distance in enumerate((1.0, 3.0)):
        place = write_run(tmp_path / str(seed), "a", seed, {REWARD: [0.5]})
        held_out = {
            "spectrum": {"finest_share": 0.1, "num_images": 192.0, "value": 0.75},  # as JSON sorts them
            "frechet": {"frechet_distance": distance, "num_images": 192.0},
        }
        result({"ocr": 0.5}, held_out=held_out).save(place / "report" / "student_guidance_1.json")
    known = {"frechet": {"value": 0.5, "n": 192, "better": "lower", "conditions": {"seed": 0}}}
    scores = {"ocr": {"mean": 0.1, "n": 64}}
    base = {"name": "base", "guidance_scale": 1.0, "scores": scores, "held_out": known}
    before = {"name": "teacher: ocr", "guidance_scale": 1.0, "scores": scores}
    table = {"title": "mini: reward by task", "rows": [base, before], "gain_kept": {}}
    (tmp_path / "0" / "report" / "table.json").write_text(json.dumps(table))
    (scores,) = score_tables(methods_in(tmp_path), [])
    assert scores.held_out is not None
    assert scores.held_out.header == [
        *("Model", "Guidance", "n"),
        *("detail like clean drawings ↑", "Fréchet distance ↓"),
    ]
    assert scores.held_out.lines == [
        ["base", "1", "-", "-", "0.500"],
        ["teacher: ocr", "1", "-", "-", "-"],
        ["a", "1", "2", "0.750 ±?", "2.000 ±12.706"],
    ]
    html = page_of(tmp_path)
    assert "<h4>Not used for training, mini</h4>" in html
    assert "2.000 ±12.706" in html


def samples(folder, *shades, prompt="one", scores=None):
    """What a run's report leaves: base, teacher and student as plain pictures of one prompt."""
    SampleSheet(
        columns=("base", "ocr\nteacher", "student"),
        prompts=[("ocr", prompt)],
        scores=[scores or shades],
        rule="The rule.",
        images=[[enlarged(torch.full((3, 32, 32), shade)) for shade in shades]],
    ).save(folder / "report" / "samples.png")


def test_students_of_the_same_prompts_and_noise_stand_side_by_side(tmp_path, caplog):
    for name, base, student in (("a", 0.2, 0.6), ("b", 0.2, 0.8), ("c", 0.0, 1.0)):
        samples(write_run(tmp_path / "runs" / name, name, 0, {REWARD: [0.5]}), base, 0.4, student)
    write_run(tmp_path / "runs" / "d", "d", 0, {REWARD: [0.5]})
    for name in ("e", "f"):
        scored = write_run(tmp_path / "runs" / name, name, 0, {REWARD: [0.5]}) / "scores" / "mini_guidance_1"
        result({"ocr": 0.5}).save(scored / "results.json")
        save_png(torch.zeros(3, 32, 32), scored / "images" / "ocr" / "00000.png")
    old = write_run(tmp_path / "runs" / "g", "g", 0, {REWARD: [0.5]}) / "report" / "samples.png"
    save_png(torch.zeros(3, 300, 655), old)
    grids, without = method_grids(methods_in(tmp_path / "runs"), tmp_path, benchmark="mini", num_per_task=1)
    single, pair = read_sheet(grids[0].path), read_sheet(grids[1].path)
    assert list(single.columns) == ["e", "f"]
    assert list(pair.columns) == ["base", "ocr\nteacher", "a", "b"]
    assert [image.getpixel((64, 64))[0] for image in pair.images[0]] == [51, 102, 153, 204]
    assert list(pair.scores[0]) == [0.2, 0.4, 0.6, 0.8]
    assert "The rule. In a row all images start from the same noise." in grids[1].caption
    assert (len(grids), without) == (3, ["d", "g"])
    assert f"samples are left out: {old} does not say what it shows" in caplog.text


def test_single_images_are_chosen_by_the_rule_where_base_and_teacher_are_there(tmp_path):
    by_name = {"base": [0.9, 0.2, 0.2], "ocr_teacher": [1.0, 0.2, 1.0], "opd": [0.5, 0.6, 0.7]}
    for name, scores in by_name.items():
        taught = {
            "teacher": {"teachers": {"ocr": {"path": str(tmp_path / "runs" / "ocr_teacher" / "adapter")}}}
        }
        run = write_run(
            tmp_path / "runs" / name, name, 0, {REWARD: [0.5]}, settings=taught if name == "opd" else None
        )
        place, found = run / "scores" / "mini_guidance_1", result({"ocr": 0.5}, by_prompt={"ocr": scores})
        adapter = None if name == "base" else str(run / "adapter")
        dataclasses.replace(found, adapter=adapter).save(place / "results.json")
        for index in range(3):
            save_png(torch.full((3, 32, 32), index / 255), place / "images" / "ocr" / f"{index:05d}.png")
    (grid,), _ = method_grids(methods_in(tmp_path / "runs"), tmp_path, benchmark="mini", num_per_task=1)
    sheet = read_sheet(grid.path)
    assert list(sheet.prompts) == [("ocr", "prompt 2 of ocr")]
    assert [image.getpixel((0, 0))[0] for image in sheet.images[0]] == [2, 2, 2]
    assert dict(zip(sheet.columns, sheet.scores[0], strict=True)) == {
        "base": 0.2,
        "ocr_teacher": 1.0,
        "opd": 0.7,
    }
    assert "on which the base fails (score below 50% of the best)" in grid.caption
    other = methods_in(tmp_path / "runs")
    alone = [method for method in other if method.key == "opd"]
    (grid,), _ = method_grids(alone, tmp_path, benchmark="mini", num_per_task=1)
    assert list(read_sheet(grid.path).prompts) == [("ocr", "prompt 0 of ocr")]
    assert "the first 1, as nothing says how base and teacher score on them" in grid.caption


def test_the_command_writes_a_page_that_needs_nothing_else(tmp_path, capsys):
    for name, level in (("mopd_ode", 0.8), ("mopd_kl_07", 0.5)):
        for seed in range(3):
            rewards = [level * number / 4 + 0.01 * seed for number in range(5)]
            metrics = {
                REWARD: rewards,
                "train/gap/ocr": rewards,
                "train/loss/opd": rewards,
                "train/other": rewards,
            }
            settings = {"model": {"path": "https://example.org/model"}}
            scores = {"ocr": level + 0.01 * seed**2}
            write_run(tmp_path / name / f"seed{seed}", name, seed, metrics, scores=scores, settings=settings)
    write_run(tmp_path / "mopd_sft", "mopd_sft", 0, {REWARD: [0.5]}, planned=7, finished=False)
    page = page_of(tmp_path, "labels={mopd_ode: 'OPD <ODE>'}")
    out = capsys.readouterr().out
    assert "noise_0_over_07: open" not in out
    assert re.search(
        r"noise_0_over_07, guidance 1: holds \(Holm p < 0\.001; paired, 3 seeds, seeds and prompts", out
    )
    assert "12 more claims are about methods that these runs do not have" in out
    assert "opd_ceiling_dmd" not in out + page  # no run is about it
    assert f"not finished: {tmp_path / 'mopd_sft'}" in out
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:image/png;base64,|#)[^"'>]+""", page)
    assert not re.findall(r"<script|<link|@import|url\(", page)
    assert "OPD &lt;ODE&gt;" in page
    for text in ("mopd_kl_07", "mopd_sft", "1 of 7 rounds", "not finished, not counted", "n = 3 seeds each"):
        assert text in page
    assert "python -m diffopd.train +experiment=mopd_ode seed=2" in page
    assert "abc1234" in page
    assert "https://example.org/model" in page  # in the config of a run, as text
    for sentence in ("No run logged held-out rewards", "No run saved images"):
        assert sentence in page
    files = sorted(path.name for path in (tmp_path / "page" / "figures").iterdir())
    ends = ("by_minutes", "by_round")
    curves = [f"{kind}_{end}.png" for kind in ("gap", "reward") for end in ends]
    assert files == sorted([*curves, "loss_by_round.png", "other_by_round.png", "cost.png"])
    assert page.count("data:image/png;base64,") == len(files)


def test_a_page_of_runs_that_left_next_to_nothing(tmp_path, capsys):
    write_run(tmp_path / "one", "a", 0, {"train/pixel_error": [0.5]})
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("name: b\nphase: {}\nseed: 4\n")
    page = page_of(tmp_path, "claims=none")
    for sentence in (
        "No run holds benchmark scores",
        "No run logged rewards",
        "No run logged a gap to teachers",
        "1 is not finished",
        "seed 4, 0 rounds",
    ):
        assert sentence in re.sub(r"\s+", " ", page)


def test_a_page_shows_the_samples_over_rounds_of_each_run_that_has_some(tmp_path):
    for seed in range(3):
        run = write_run(tmp_path / "one" / f"seed{seed}", "mopd_ode", seed, {REWARD: [0.5]})
        if seed != 1:
            write_samples(run / "samples", rounds=range(0, 60, 20))
    page = page_of(tmp_path, "claims=none")
    shown = re.findall(r"<figcaption>(mopd_ode, seed \d: samples over its rounds)", page)
    assert shown == [f"mopd_ode, seed {seed}: samples over its rounds" for seed in (0, 2)]
    with Image.open(tmp_path / "page" / "figures" / "rounds_2.png") as strip:
        assert strip.size == (240 + 3 * 136 + 8, 36 + 2 * 136)
    shutil.rmtree(tmp_path / "one" / "seed0" / "samples")
    shutil.rmtree(tmp_path / "one" / "seed2" / "samples")
    assert "Samples over rounds" not in page_of(tmp_path, "claims=none")


def test_a_page_of_other_runs_says_nothing_of_claims(tmp_path, capsys):
    write_run(tmp_path / "one", "tiny", 0, {REWARD: [0.5]}, scores={"ocr": 0.5})
    page = page_of(tmp_path)
    for text in ("<h2>Claims</h2>", "not decidable", "What is claimed of it", 'href="#claims"'):
        assert text not in page
    out = capsys.readouterr().out
    assert "not decidable" not in out
    assert "14 more claims are about methods that these runs do not have" in out


def test_labels_say_what_differs_with_three_settings_and_more(tmp_path):
    def settings(noise, lr, rank, **more):
        return {
            "sampler": {"noise_level": noise, "guidance_scale": 1.0},
            "optimizer": {"lr": lr},
            "adapter": {"rank": rank},
            **more,
        }

    write_run(tmp_path / "a", "tiny", 0, {REWARD: [0.5]}, settings=settings(0, 1e-3, 8))
    write_run(tmp_path / "b", "tiny", 1, {REWARD: [0.5]}, settings=settings(0.0, 0.001, 8.0))
    write_run(tmp_path / "c", "tiny", 0, {REWARD: [0.5]}, settings=settings(0.7, 1e-3, 8))
    write_run(tmp_path / "d", "tiny", 0, {REWARD: [0.5]}, settings=settings(0.7, 2e-3, 16))
    assert [(method.label, method.num_seeds) for method in methods_in(tmp_path)] == [
        ("tiny, rank=8, lr=0.001, noise_level=0", 2),  # 0 and 0.0, 8 and 8.0 are one setting
        ("tiny, rank=8, lr=0.001, noise_level=0.7", 1),
        ("tiny, rank=16, lr=0.002, noise_level=0.7", 1),
    ]
    loss = {"loss": {str(number): number for number in range(9)}}
    write_run(tmp_path / "e", "tiny", 0, {REWARD: [0.5]}, settings=settings(0.7, 5e-3, 16, **loss))
    labels = [method.label for method in methods_in(tmp_path)]
    assert labels[3] == "tiny (4), rank=16, lr=0.005, 0=0"
    assert len(set(labels)) == 4


def test_every_method_of_eight_has_dashes_and_a_marker_of_its_own():
    styles = styles_of([str(number) for number in range(12)])
    assert len({(style.dashes, style.marker) for style in styles.values()}) == 12
    assert len({style.marker for style in list(styles.values())[:8]}) == 8


def test_a_curve_of_few_points_shows_them_and_rises(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(method_figures, "save_figure", lambda figure, path: figures.append(figure) or path)
    rising = [Series([1, 2, 3, 4, 5], [0.005, 0.02, 0.04, 0.05, 0.07])]
    band = band_by_round(rising, window=9)
    assert band.mean.tolist() == rising[0].values
    curve_figure({"ocr": {"a": band}}, tmp_path / "x.png", x="round", y="", styles=styles_of(["a"]))
    (line,) = figures[0].axes[0].get_lines()
    assert (line.get_marker(), line.get_markevery()) == ("o", 1)
    assert all(tick == round(tick) for tick in figures[0].axes[0].get_xticks())


def test_results_of_other_settings_are_in_a_table_of_their_own(tmp_path):
    write_run(tmp_path / "a", "a", 0, {REWARD: [0.5]}, scores={"ocr": 0.5})
    place = write_run(tmp_path / "b", "b", 0, {REWARD: [0.5]}, scores={"ocr": 0.9})
    few = result({"ocr": 0.9}, by_prompt={"ocr": [0.9] * 12})
    few.save(place / "report" / "student_guidance_1.json")
    base = {"name": "base", "guidance_scale": 1.0, "scores": {"ocr": {"mean": 0.1, "n": 64}}}
    table = {"title": "mini: reward by task", "rows": [base], "gain_kept": {}}
    (place / "report" / "table.json").write_text(json.dumps(table))  # as once: 64 prompts above 12
    first, second = score_tables(methods_in(tmp_path), [])
    assert (first.benchmark, second.benchmark) == (
        "mini",
        "mini, measured with other settings than above (ocr, images: 12 and 64)",
    )
    assert [row.name for table in (first, second) for row in table.rows] == ["a", "b"]


def test_a_page_is_made_again_from_the_data_it_keeps(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, level in (("mopd_ode", 0.8), ("mopd_kl_07", 0.5)):
        for seed in range(3):
            rewards = [level * number / 4 + 0.01 * seed for number in range(5)]
            settings = {"paths": {"run": str(tmp_path / "secret")}, "model": {"path": str(tmp_path / "base")}}
            write_run(
                tmp_path / "runs" / name / f"seed{seed}",
                name,
                seed,
                {REWARD: rewards, "train/loss/opd": rewards},
                scores={"ocr": level + 0.01 * seed**2},
                settings=settings,
            )
    base = {"name": "base", "guidance_scale": 1.0, "scores": {"ocr": {"mean": 0.1, "n": 64}}}
    table = {"title": "mini: reward by task", "rows": [base], "gain_kept": {}}
    report = tmp_path / "runs" / "mopd_ode" / "seed0" / "report"
    (report / "table.json").write_text(json.dumps(table))

    def made(*overrides):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            cfg = compose("report", overrides=["paths.run=unused", *overrides])
        report_command(cfg)
        return capsys.readouterr().out.partition("\nopen ")[0]

    first = made("runs=[runs]", "out=pages/one")
    kept = sorted((tmp_path / "pages" / "one" / "data").iterdir())
    assert len(kept) == 6
    shutil.rmtree(tmp_path / "runs")
    assert made("runs=[pages/one/data]", "out=pages/two") == first
    one, two = ((tmp_path / "pages" / name / "index.html").read_text() for name in ("one", "two"))
    cut = r'<img src="[^"]*"|<pre>.*?</pre>|: \S*</summary>'
    numbers = [re.sub(cut, "", page, flags=re.S) for page in (one, two)]
    assert numbers[0] == numbers[1]
    for name in ("reward_by_round.png", "loss_by_round.png", "cost.png"):
        pictures = [(tmp_path / "pages" / page / "figures" / name).read_bytes() for page in ("one", "two")]
        assert pictures[0] == pictures[1], name
    again = sorted((tmp_path / "pages" / "two" / "data").iterdir())
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in kept]
    text = gzip.decompress(kept[0].read_bytes()).decode()
    assert str(tmp_path) not in text
    assert "./base" in text
    assert made("runs=[pages/one]", "out=pages/one", "keep_data=false") == first


def test_a_file_of_data_that_is_damaged_is_named(tmp_path):
    path = tmp_path / f"x{ARCHIVE}"
    path.write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"x\.run\.json\.gz is not a run saved by a report"):
        find_runs([str(path)])


def test_settings_of_the_page_are_checked(tmp_path):
    write_run(tmp_path / "one", "a", 0, {REWARD: [0.5]})
    with pytest.raises(ValueError, match="running_mean=4 must be an odd whole number"):
        page_of(tmp_path, "running_mean=4")
    with pytest.raises(ValueError, match="num_images=0 must be a whole number of at least 1"):
        page_of(tmp_path, "num_images=0")


def test_steps_are_the_mean_of_the_last_rounds_by_seed(tmp_path):
    for seed, offset in ((0, 0.0), (1, 1.0)):
        values = {f"train/step_gap/{step}": [9.0] * 18 + [step + offset] * 2 for step in (0, 10, 2)}
        write_run(tmp_path / f"a{seed}", "a", seed, values)
    (method,) = methods_in(tmp_path)
    band = step_band(method, "train/step_gap")
    assert band is not None
    assert [list(values) for values in (band.x, band.mean, band.low, band.high)] == [
        [0, 2, 10],
        [0.5, 2.5, 10.5],
        [0, 2, 10],
        [1, 3, 11],
    ]
    assert step_band(method, "train/step_loss") is None
    assert not [name for family in curve_families([method]) for name in [family.title] if "Other" in name]
