import pytest
import torch

from diffopd.phase.round_log import RoundLog
from diffopd.types import Prompts, Scores

TASKS = ("dark", "light", "dark", "light")


def logged(scores, *batches):
    prompts = Prompts(("p",) * 4, TASKS, ({},) * 4, (0, 1, 2, 3), (0, 1, 0, 1))
    log = RoundLog(TASKS, torch.device("cpu"))
    for rows in batches or ([0, 1, 2, 3],):
        part = Scores(scores.value[rows], {n: v[rows] for n, v in scores.parts.items()}, scores.scale)
        log.add_rewards(part, prompts.select(rows))
    return {name: total.item() for name, total in log.values().items()}


def test_every_part_of_a_mixture_is_logged_for_every_task():
    scores = Scores(torch.tensor([0.0, 1.0, 2.0, 5.0]), {"edge": torch.tensor([4.0, 1.0, 8.0, 2.0])}, "any")
    expected = {
        "train/reward/dark": 1.0,
        "train/reward/light": 3.0,
        "train/reward_part/dark/edge": 6.0,
        "train/reward_part/light/edge": 1.5,
    }
    assert logged(scores) == pytest.approx(expected)
    assert logged(scores, [0, 1], [2, 3]) == pytest.approx(expected)


def test_parts_of_one_task_are_logged_for_that_task_alone():
    nan = torch.nan
    parts = {
        "dark/edge": torch.tensor([4.0, nan, 8.0, nan]),
        "light/glow": torch.tensor([nan, 1.0, nan, 3.0]),
    }
    found = logged(Scores(torch.zeros(4), parts, "any"), [0, 1], [2, 3])
    assert {name: value for name, value in found.items() if "part" in name} == {
        "train/reward_part/dark/edge": 6.0,
        "train/reward_part/light/glow": 2.0,
    }


def test_sums_names_and_shares():
    log = RoundLog(TASKS[:3], torch.device("cpu"))
    log.add("a", 1)
    log.add("a", torch.tensor(0.5))
    log.expect(["a", "b"])
    log.put({"c": torch.tensor(7.0)})
    assert {name: value.item() for name, value in log.values().items()} == {"a": 1.5, "b": 0.0, "c": 7.0}
    assert log.shares(TASKS[:3]).tolist() == [0.25, 0.5, 0.25]  # two dark rows, one light one
