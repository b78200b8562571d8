from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.drawn.composition import CompositionReward
from diffopd.types import Detection, Prompts
from diffopd.world.request import GENEVAL_TAGS

CONFIG = OmegaConf.load(Path(__file__).parents[2] / "conf/reward/composition.yaml")
TWO_CATS = {"tag": "colors", "include": [{"class": "cat", "count": 2}]}


def prompts(*lines):
    rows = tuple(range(len(lines)))
    return Prompts(tuple(f"prompt {i}" for i in rows), ("composition",) * len(lines), lines, rows, rows)


def cats(number):
    return [Detection("cat", (9.0 * i, 0.0, 9.0 * i + 8, 8.0), 0.95, "red") for i in range(number)]


@pytest.mark.parametrize(
    ("score", "expected"),
    [("dense", [0.5, 0]), ("dense_released", [0.5, -0.5]), ("strict", [0, 0]), ("official", [0, 1])],
)
def test_value_is_the_chosen_score_and_parts_hold_all(score, expected):
    reward = CompositionReward(detector=lambda images: [cats(1), cats(5)], score=score)
    scores = reward(torch.zeros(2, 3, 8, 8), prompts(TWO_CATS, TWO_CATS))
    assert scores.value.tolist() == expected
    assert set(scores.parts) == {"dense", "dense_released", "strict", "official"}
    assert torch.equal(scores.parts[score], scores.value)


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match=r"reward\.score must be one of .*'strict'\], got 'best'"):
        CompositionReward(detector=lambda images: [], score="best")


def test_prompt_without_clauses_is_named():
    reward = CompositionReward(detector=lambda images: [cats(1)] * len(images), score="dense")
    with pytest.raises(RewardError, match=r"'include' clause.* sample 1 .*'prompt 1'"):
        score_checked(reward, torch.zeros(2, 3, 8, 8), prompts(TWO_CATS, {}), "reward")


def test_other_prompts_score_lower_on_clean_drawings(drawings):
    reward = instantiate(CONFIG)
    images, asked = drawings(GENEVAL_TAGS, 60, seed=1)
    own = reward(images, asked)
    other = reward(images.roll(6, 0), asked)
    assert own.parts["strict"].mean() >= 0.98
    assert other.parts["strict"].mean() < 0.3
    assert other.value.mean() < own.value.mean() - 0.3
