from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from diffopd.report.run import curve
from diffopd.report.run.curve import RewardHistory, _interpolate, _running_mean, reward_curve, reward_panels


def read(path):
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture
def metrics(tmp_path):
    """As the CSV logger writes them: several lines a round, gaps where a metric was not logged."""
    path = tmp_path / "metrics.csv"
    lines = ["step,epoch,train/reward/ocr,train/time/seconds_per_round,train/reward/composition"]
    for r in range(4):
        lines += [f"{r},{r},{0.1 * r},,{0.2 + 0.1 * r}", f"{r},{r},,30.0,"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_history_joins_the_lines_of_a_round(metrics):
    history = RewardHistory.read(metrics)
    assert history.rounds == {"ocr": [1, 2, 3, 4], "composition": [1, 2, 3, 4]}
    assert history.rewards["ocr"] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert history.minutes == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_rounds_count_lines_where_there_is_no_epoch(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/reward/ocr\n9,0.5\n18,\n27,0.25\n")
    assert RewardHistory.read(path).rounds == {"ocr": [1, 2]}
    assert not RewardHistory.read(path).minutes


def test_curve_is_a_picture_with_a_panel_per_task(metrics, tmp_path):
    levels = {"ocr": {"base": 0.1, "teacher": 0.3}}
    wide = read(reward_curve(metrics, levels, tmp_path / "two.png", final={}))
    lines = metrics.read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    narrow = read(reward_curve(tmp_path / "one.csv", levels, tmp_path / "one.png", final={}))
    assert wide.width == 2 * narrow.width
    assert len(wide.getcolors(1 << 24)) > 20  # text and lines, not a blank sheet


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_few_rounds_have_whole_numbers_and_minutes_apart(tmp_path, monkeypatch, num_rounds):
    path, figures = tmp_path / "metrics.csv", []
    lines = [f"{number},{number},0.5,2" for number in range(num_rounds)]
    header = "step,epoch,train/reward/ocr,train/time/seconds_per_round"
    path.write_text("\n".join([header, *lines, ""]))
    levels = {"ocr": {"base": 0.1, "teacher": 0.9}}
    monkeypatch.setattr(curve, "save_figure", lambda figure, path: figures.append(figure) or path)
    reward_curve(path, levels, tmp_path / "few.png", final={"ocr": ("student", 0.8)})
    figures[0].canvas.draw()
    (axis,) = figures[0].axes
    assert all(tick == round(tick) for tick in axis.get_xticks())
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "training",
        "base 0.100",
        "teacher 0.900",
        "student 0.800",
    ]
    for scale in axis.child_axes:
        assert 2 <= len(scale.get_xticks()) <= 7


def test_the_final_score_is_marked_at_the_last_round_and_the_legend_is_above_the_lines(tmp_path, monkeypatch):
    path, figures = tmp_path / "metrics.csv", []
    lines = [
        f"{number},{number},{0.5 if number % 4 == 0 else ''},2" for number in range(12)
    ]  # scored: 1, 5, 9
    header = "step,epoch,train/reward/ocr,train/time/seconds_per_round"
    path.write_text("\n".join([header, *lines, ""]))
    monkeypatch.setattr(curve, "save_figure", lambda figure, path: figures.append(figure) or path)
    reward_curve(
        path, {"ocr": {"base": 0.2, "teacher": 0.9}}, tmp_path / "x.png", final={"ocr": ("student", 0.8)}
    )
    figures[0].canvas.draw()
    (axis,) = figures[0].axes
    marks = [line for line in axis.get_lines() if line.get_marker() == "D"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(12, 0.8)]
    levels = [line.get_ydata()[0] for line in axis.get_lines() if line.get_linestyle() in (":", "--")]
    assert levels == [0.2, 0.9]
    legend, panel = axis.get_legend().get_window_extent(), axis.get_window_extent()
    assert legend.y0 >= panel.y1


def test_panels_of_a_page_are_svg_that_follows_light_and_dark(metrics):
    panels = reward_panels(metrics, {"ocr": {"base": 0.1}}, final={"ocr": ("student", 0.25)})
    assert list(panels) == ["ocr", "composition"]
    for task, svg in panels.items():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "@media (prefers-color-scheme: dark)" in svg
        assert curve._INK not in svg.replace(f"--ink: {curve._INK}", "")
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {task, "round", "training minutes"} <= set(texts)
        assert ("student 0.250" in texts) == (task == "ocr")
    assert reward_panels(metrics, {}, final={}) == reward_panels(metrics, {}, final={})


def test_runs_without_rewards_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.csv: no such file; the run needs the csv logger"):
        RewardHistory.read(tmp_path / "absent.csv")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.0\n")
    with pytest.raises(ValueError, match=r"holds no train/reward/<task>"):
        RewardHistory.read(tmp_path / "metrics.csv")


def test_running_mean_is_centred_and_shorter_at_the_ends():
    many = np.array([0.0, 3.0, 6.0, *[0.0] * 7])
    assert _running_mean(many).tolist() == [1.5, 3.0, 3.0, 2.0, *[0.0] * 6]


def test_a_run_of_few_rounds_is_drawn_as_it_is():
    """A rise from .005 to .07 over six rounds was once a flat line."""
    few = np.linspace(0.005, 0.07, 6)
    assert _running_mean(few).tolist() == few.tolist()


def test_minutes_go_on_at_the_average_slope():
    known, values = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 4.0])
    assert _interpolate(np.array([-1.0, 0.5, 3.0]), known, values).tolist() == [-2.0, 1.5, 6.0]
