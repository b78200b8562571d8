"""The paper's Table 1 beside rows of one's own."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from diffopd import paper_table
from diffopd.check import check_config
from diffopd.evaluation import EvaluationResult, TaskResult
from diffopd.report.comparison.paper_rows import own_row, read_reference
from diffopd.report.comparison.paper_table import PaperTable, normalised_averages
from diffopd.types import Prompts

CONF = Path(__file__).parents[2] / "conf"
TABLE1 = "package://assets/paper/table1.json"
COLUMNS = {
    "geneval": {"benchmark": "geneval", "task": "composition", "score": "official"},
    "ocr": {"benchmark": "ocr", "task": "ocr", "score": "value"},
}
PAPER = """\
SD-XL .55 .14 22.42 .287 .280 5.60 .76 2.93 .390
SD3.5-L .71 .68 22.91 .289 .288 5.50 .96 3.25 .601
FLUX.1-Dev .66 .59 22.84 .295 .274 5.71 .96 3.27 .599
SD3.5-M_(w/o_CFG) .24 .12 20.51 .237 .204 5.13 -.58 2.02 0
SD3.5-M_+_CFG .63 .59 22.34 .285 .279 5.36 .85 3.03 .484
GenEval_Teacher .96 .40 22.04 .274 .248 5.24 .59 2.97 .473
OCR_Teacher .65 .93 22.27 .290 .272 5.26 .90 3.09 .550
Aes_Teacher .49 .59 24.02 .295 .346 6.22 1.498 3.48 .698
Multi-Task_GRPO-Guard .89 .94 23.12 .296 .307 5.61 1.31 3.33 .763
Multi-Task_NFT .95 .96 22.59 .288 .282 5.41 1.08 3.23 .715
Cascade_NFT .94 .91 23.80 .293 .331 6.01 1.49 3.49 .851
DiffusionOPD .96 .94 23.99 .297 .342 6.15 1.50 3.50 .929
"""
"""Typed from the paper a second time, so that a slip of one copy shows."""
RECOMPUTED = (0.507, 0.672, 0.673, 0.0, 0.566, 0.500, 0.619, 0.857, 0.821, 0.731, 0.934, 0.984)
"""Worked out apart from this code, over these twelve rows and eight columns."""


def result(benchmark, task, scores, parts):
    n = len(scores)
    prompts = Prompts(("p",) * n, (task,) * n, ({},) * n, tuple(range(n)), tuple(range(n)))
    of_task = TaskResult.of(torch.tensor(scores), torch.zeros(n, dtype=torch.long), (), parts, prompts)
    return EvaluationResult(
        benchmark=benchmark, seed=0, guidance_scale=1.0, adapter=None, tasks={task: of_task}, held_out={}
    )


@pytest.fixture
def places(tmp_path):
    """A finished evaluation of two benchmarks: a folder and a file."""
    result("geneval", "composition", [0.5, 0.7], {"official": 0.75, "dense": 0.6}).save(
        tmp_path / "geneval" / "results.json"
    )
    result("ocr", "ocr", [0.25, 0.5], {"exact": 0.0}).save(tmp_path / "other.json")
    return [str(tmp_path / "geneval"), str(tmp_path / "other.json")]


def test_the_papers_rows_are_copied_to_the_digit():
    reference = read_reference(TABLE1)
    assert reference.source == "arXiv 2605.15055 Table 1"
    lines = [line.split() for line in PAPER.splitlines()]
    assert [row.name.removesuffix(" (1024 px)") for row in reference.rows] == [
        line[0].replace("_", " ") for line in lines
    ]
    for row, (_, *numbers, printed) in zip(reference.rows, lines, strict=True):
        assert [row.scores[column] for column in reference.labels] == [float(number) for number in numbers]
        assert row.printed == float(printed)
    assert [row.hours for row in reference.rows] == [
        *[None] * 5,
        *("46.92", "33.17", "85.75", "129.86", "128.42", "about 148.49", "85.75 + 11.26"),
    ]
    assert [row.name for row in reference.rows if "1024" in row.name] == [
        "SD-XL (1024 px)",
        "SD3.5-L (1024 px)",
    ]


def test_averages_over_the_papers_rows_are_those_worked_out_apart():
    table = PaperTable.of([], read_reference(TABLE1), list(read_reference(TABLE1).labels))
    assert [round(average, 3) for average in table.averages] == list(RECOMPUTED)


def test_averages_by_hand():
    rows = [{"a": 1.0, "b": 0.2}, {"a": 3.0, "b": 0.4}, {"a": 2.5, "b": 0.25}, {"a": -9.0}]
    averages = normalised_averages(rows, ["a", "b"])
    # The last row has no b: no average, and its -9 is not the lowest a.
    assert averages == [0.0, 1.0, pytest.approx((0.75 + 0.25) / 2), None]
    assert normalised_averages(rows, ["a"]) == [pytest.approx(10 / 12), 1, pytest.approx(11.5 / 12), 0]
    assert normalised_averages([{"a": 2.0}], ["a"]) == [1.0]
    assert normalised_averages([{}], ["a"]) == [None]


def test_a_row_is_read_from_evaluations(places):
    row = own_row("mine", places, COLUMNS, hours=1.5)
    assert row.scores == {"geneval": 0.75, "ocr": 0.375}
    assert (row.source, row.hours, row.printed) == ("here", "1.5", None)
    with pytest.raises(ValueError, match=r"models\.mine\.results has two results of benchmark geneval"):
        own_row("mine", [places[0], places[0]], COLUMNS, hours=None)
    with pytest.raises(
        ValueError, match=r"models\.mine\.results: there is no .*absent; is that evaluation fin"
    ):
        own_row("mine", ["absent"], COLUMNS, hours=None)
    with pytest.raises(ValueError, match=r"results of ocr, and none of the scores .* \(geneval\) is in them"):
        own_row("mine", places[1:], {"geneval": COLUMNS["geneval"]}, hours=None)


def test_own_rows_stand_below_the_papers_and_are_marked(places):
    table = PaperTable.of(
        [own_row("mine", places, COLUMNS, hours=None)], read_reference(TABLE1), list(COLUMNS)
    )
    header, *lines = table.texts()
    assert header == ["model", "from", "hours", "GenEval", "OCR", "average", "average printed"]
    assert lines[0] == ["SD-XL (1024 px)", "arXiv 2605.15055 Table 1", "-", "0.55", "0.14", "0.227", "0.390"]
    # (0.75 - 0.24) / (0.96 - 0.24) and (0.375 - 0.12) / (0.96 - 0.12)
    assert lines[-1] == ["mine", "here", "-", "0.75", "0.38", f"{(0.51 / 0.72 + 0.255 / 0.84) / 2:.3f}", "-"]
    assert "a difference between the two kinds is not a measurement" in table.to_markdown()


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("paper_table", overrides=list(overrides))


def test_the_command_writes_text_json_and_a_picture(places, tmp_path, capsys):
    cfg = composed(
        f"+models.mine={{results: [{', '.join(places)}], hours: 3}}", f"paths.run={tmp_path / 'table'}"
    )
    check_config(cfg, "paper_table")
    paper_table.run(cfg)
    assert "| mine | here | 3 | 0.75 | 0.38 | - |" in (tmp_path / "table" / "table.md").read_text()
    assert "| mine | here | 3 |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert rows[-1]["scores"] == {"geneval": 0.75, "ocr": 0.375}
    assert rows[-1]["average"] is None  # six columns were not evaluated
    assert rows[-2]["name"] == "DiffusionOPD"
    with Image.open(tmp_path / "table" / "table.png") as picture:
        assert picture.width > 1000


def test_a_table_needs_rows_and_columns_that_are_there(places, tmp_path):
    with pytest.raises(ValueError, match="models is empty and reference=null"):
        paper_table.run(composed("reference=null", f"paths.run={tmp_path}"))
    with pytest.raises(ValueError, match=r"columns has spectrum, which arXiv 2605\.15055 Table 1 lacks"):
        PaperTable.of([], read_reference(TABLE1), ["ocr", "spectrum"])
    with pytest.raises(ValueError, match=r"reference=absent\.json cannot be read"):
        read_reference("absent.json")
    own = PaperTable.of([own_row("mine", places, COLUMNS, hours=None)], None, list(COLUMNS))
    assert own.texts()[0] == ["model", "from", "hours", "geneval", "ocr", "average"]
    assert "copied" not in own.to_markdown()


def test_the_columns_are_what_benchmarks_report(tmp_path):
    """Names in conf/paper_table.yaml are those of conf/benchmark and conf/metric."""
    (tmp_path / "prompts.txt").write_text('a door that says "PUSH"\n')
    for column, entry in composed().columns.items():
        overrides = [f"benchmark={entry.benchmark}", f"benchmark.path={tmp_path / 'prompts.txt'}"]
        if entry.benchmark == "drawbench":
            overrides.append("metric@benchmark.metric=model_based")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            benchmark = compose("evaluate", overrides=overrides).benchmark
        assert (benchmark.name, benchmark.task) == (entry.benchmark, entry.task)
        assert entry.score == "value" or entry.score in benchmark.metric.parts
        if entry.benchmark == "drawbench":
            assert benchmark.metric.reward.rewards[column].scale == "table"


def test_rows_of_other_prompts_do_not_stand_in_one_table(places, tmp_path):
    result("ocr", "ocr", [0.25, 0.5, 0.9], {}).save(tmp_path / "more.json")
    rows = [
        own_row("a", places, COLUMNS, hours=None),
        own_row("b", [str(tmp_path / "more.json")], COLUMNS, hours=None),
    ]
    with pytest.raises(
        ValueError, match=r"models.b.results and models.a.results were scored on ocr .*ocr, images: 3 and 2"
    ):
        PaperTable.of(rows, None, list(COLUMNS))
    table = PaperTable.of(rows[:1], None, list(COLUMNS))
    assert "Images scored of rows marked here: geneval 2, ocr 2." in table.to_markdown()
