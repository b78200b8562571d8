import pytest
import torch

from diffopd.reward.by_task import RewardByTask
from diffopd.reward.checked import RewardError
from diffopd.types import Prompts, Scores

PROMPTS = Prompts(("p", "q", "r"), ("dark", "light", "dark"), ({},) * 3, (7, 8, 9), (0, 1, 2))
IMAGES = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1).expand(3, 3, 4, 4)


def light(images, prompts):
    return Scores(images.mean((1, 2, 3)), {"max": images.amax((1, 2, 3))}, "luminance")


def dark(images, prompts):
    return Scores(1 - images.mean((1, 2, 3)), {}, "darkness")


def test_each_row_gets_its_own_reward():
    scores = RewardByTask(rewards={"dark": dark, "light": light, "unused": dark})(IMAGES, PROMPTS)
    assert scores.value.tolist() == pytest.approx([0.9, 0.2, 0.7])
    assert set(scores.parts) == {"light/max"}
    part = scores.parts["light/max"]
    assert part[1].item() == pytest.approx(0.2)
    assert part[[0, 2]].isnan().all()


def test_by_task_gives_rows_and_scores():
    scored = RewardByTask(rewards={"dark": dark, "light": light}).by_task(IMAGES, PROMPTS)
    assert {task: rows for task, (rows, _) in scored.items()} == {"dark": [0, 2], "light": [1]}
    assert scored["dark"][1].value.tolist() == pytest.approx([0.9, 0.7])


def test_unknown_task_is_refused():
    with pytest.raises(
        ValueError, match=r"task 'light' of row 1 has no reward; reward.rewards has \['dark'\]"
    ):
        RewardByTask(rewards={"dark": dark})(IMAGES, PROMPTS)


def test_failing_task_is_named_with_the_global_sample_index():
    def broken(images, prompts):
        return Scores(torch.tensor([0.0, torch.nan]), {}, "any")

    with pytest.raises(RewardError, match=r"rewards\.dark \(broken\) returned 'value' = nan for sample 9"):
        RewardByTask(rewards={"dark": broken, "light": light})(IMAGES, PROMPTS)
