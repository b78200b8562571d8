"""One run's page: what it holds, that it needs nothing else, and what a run says last."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "phase"))

from diffopd.files.grid import enlarged
from diffopd.files.sample_row import SampleRow
from diffopd.files.sample_sheet import SampleSheet, read_sheet
from diffopd.report.run.page import (
    PageTable,
    Pictures,
    Plot,
    RunPage,
    minutes_sentence,
    print_end,
    shown_path,
)
from diffopd.report.run.strip import nearest, quarters
from diffopd.report.run.timed import Timed
from support.run_folders import write_samples

ONE_ROUND = (
    "trainer.max_epochs=1",
    "sampler.num_steps=3",
    "benchmark.sampler.num_steps=2",
    "report.rows_per_task=1",
    *(f"benchmark.tasks.{task}.num_prompts=2" for task in ("composition", "ocr", "aesthetic")),
)


class Parts(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, tag, name):
        return [found.get(name) for kind, found in self.tags if kind == tag]


def example():
    sheet = SampleSheet(
        columns=("base", "ocr\nteacher", "student"),
        prompts=[("ocr", 'a sign that says "<B>"')],
        scores=[[0.25, 1.0, None]],
        rule="The rule.",
        images=[[enlarged(torch.full((3, 8, 8), shade)) for shade in (0.1, 0.2, 0.3)]],
    )
    return RunPage(
        title="mopd_ode, seed 3",
        lead=["One student learned."],
        tables=[
            PageTable(
                heading="Scores",
                header=["", "guidance", "ocr"],
                lines=[["base", "1", "0.500 ±0.010"], ["student", "1", "0.750 ±?"]],
                note="What it is.",
                own="student",
            )
        ],
        plots=[Plot.of_svg("<svg xmlns='http://www.w3.org/2000/svg'/>", "Reward of ocr")],
        plots_heading="Rewards while it trained",
        plots_note="Points and lines.",
        pictures=[Pictures.of(sheet, heading="Side by side", caption=sheet.rule)],
        minutes={"training": 4.04, "scoring": 1.5, "pictures and page": 0.26},
        command="python -m diffopd.train +experiment=mopd_ode seed=3",
        commit="abc1234",
        seed=3,
    )


def test_a_page_holds_table_curves_pictures_and_what_made_it(tmp_path):
    path = example().write(tmp_path / "report")
    assert path == tmp_path / "report" / "index.html"
    html = path.read_text(encoding="utf-8")
    page = Parts(html)
    for text in (
        "mopd_ode, seed 3",
        "One student learned.",
        "0.750 ±?",
        "What it is.",
        "Points and lines.",
        "ocr teacher",
        'a sign that says "<B>"',
        "The rule.",
        "python -m diffopd.train +experiment=mopd_ode seed=3",
        "4.0 training, 1.5 scoring, 0.3 pictures and page; 5.8 in all",
        "abc1234",
    ):
        assert text in page.text, text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == ["0.25", "1.00", ""]
    assert html.count('class="own"') == 1
    sources = page.values("img", "src")
    assert [source.partition(",")[0] for source in sources] == [
        "data:image/svg+xml;base64",
        *["data:image/png;base64"] * 3,
    ]
    assert None not in page.values("img", "alt")


def test_a_page_is_one_file_for_phones_and_for_the_dark(tmp_path):
    html = example().write(tmp_path).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert not re.findall(r"<script|<link|@import|url\(|https?:", html)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media (max-width: 46rem)" in html
    assert "@media (prefers-color-scheme: dark)" in html


def test_minutes_are_those_of_a_clock():
    times = iter([0.0, 60.0, 100.0, 130.0, 200.0, 230.0])
    timed = Timed(clock=lambda: next(times))
    with timed("scoring"):
        pass
    with timed("page"):
        pass
    with pytest.raises(RuntimeError), timed("scoring"):
        raise RuntimeError
    assert timed.minutes == {"scoring": 1.5, "page": 0.5}
    assert minutes_sentence({"training of all stages": 61.0}) == "61.0 training of all stages"


def test_the_last_line_says_what_to_open(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    print_end(Path("runs") / "index.html", {"training": 1.0, "scoring": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "minutes:       1.0 training, 0.5 scoring; 1.5 in all",
        f"open {Path('runs') / 'index.html'}",
    ]
    assert shown_path(Path("/elsewhere/index.html")) == str(Path("/elsewhere/index.html").absolute())


def test_the_strip_has_the_first_prompt_of_each_task_at_quarters(tmp_path):
    write_samples(tmp_path, rounds=(0, 20, 40, 60, 80, 100), prompts=("a", "b"))
    sheet = quarters(tmp_path)
    assert list(sheet.columns) == ["round 0", "round 20", "round 40", "round 100"]  # 25 and 50: 20 and 40
    assert sheet.prompts == [("ocr", "a")]  # both prompts are of one task
    assert [image.getpixel((0, 0))[0] for image in sheet.images[0]] == [0, 20, 40, 100]
    assert quarters(tmp_path / "absent") is None
    row = SampleRow(round=0, prompts=("a", "b"), tasks=("", ""), made_from="x")
    row.save(row.picture(torch.zeros(2, 3, 32, 32)), tmp_path / "own")
    own = quarters(tmp_path / "own")  # prompts that the config lists have no task
    assert (list(own.prompts), own.rule[:21]) == ([("", "a"), ("", "b")], "The run's own prompts")
    assert nearest([0, 55, 110, 220], [0, 0.25, 0.5, 1]) == [0, 1, 2, 3]


def last_lines(capsys, folder):
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"minutes: +\d+\.\d training, (\d+\.\d scoring, )?\d+\.\d pictures.*", lines[-2]), (
        lines[-2]
    )
    assert lines[-1] == f"open {folder / 'report' / 'index.html'}"
    return Parts((folder / "report" / "index.html").read_text(encoding="utf-8"))


def test_a_distillation_ends_with_its_page(world, tmp_path, capsys):
    folder = tmp_path / "run"
    world.build("mopd_ode", folder, *ONE_ROUND, "callbacks.samples.shares=[0,1]").run()
    page = last_lines(capsys, folder)
    assert "One student learned from the composition, ocr and aesthetic teachers." in page.text
    for text in (
        "teacher: composition",
        "student's gain kept",
        "composition teacher",
        "round 0",
        "round 1",
        "Seed 0",
    ):
        assert text in page.text, text
    sheet = read_sheet(folder / "report" / "samples.png")
    assert [task for task, _ in sheet.prompts] == ["composition", "ocr", "aesthetic"]
    assert sheet.rule in page.text
    # three curves, 3 x 5 images side by side, 3 x 2 over rounds
    assert len(page.values("img", "src")) == 3 + 15 + 6


@pytest.mark.slow
def test_a_teacher_ends_with_its_page(world, tmp_path, capsys):
    folder = tmp_path / "run"
    few = ("phase.num_timesteps=2", "phase.updates_per_round=1")
    world.build("teacher_ocr", folder, *ONE_ROUND, *few).run()
    page = last_lines(capsys, folder)
    assert "One model learned ocr by its rewards." in page.text
    sheet = read_sheet(folder / "report" / "samples.png")
    assert (list(sheet.columns), [task for task, _ in sheet.prompts]) == (["base", "teacher_ocr"], ["ocr"])
    card = json.loads((folder / "adapter" / "card.json").read_text())
    assert len(card["scores"]["mini"]["ocr"]["single"]) == 2  # what a student's report chooses by


def test_a_measurement_of_variances_ends_with_its_page(world, tmp_path, capsys):
    few = ("trainer.max_epochs=1", "phase.noise_levels=[0.7]", "phase.num_draws=4", "phase.group_sizes=[1]")
    world.build("gradient_variance", tmp_path / "run", *few, "phase.steps=[0]").run()
    page = last_lines(capsys, tmp_path / "run")
    assert "noise level" in page.text
    assert len(page.values("img", "src")) == 1
