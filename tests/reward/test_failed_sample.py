import json

import pytest
import torch
from PIL import Image

from diffopd.reward.checked import RewardError, Sample
from diffopd.reward.failed_sample import failures_saved, save_sample
from diffopd.types import Prompts

CLAUSES = {"tag": "colors", "include": [{"class": "circle", "count": 1}]}
PROMPT = Prompts(("a red circle",), ("shapes",), (CLAUSES,), (7,), (2,))
RED = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 5, 4)


def fail(run, image=RED, prompt=PROMPT):
    with pytest.raises(RewardError) as refused, failures_saved(run, "round_000003"):
        raise RewardError(
            "Judge", "reward", "returned nan", image if image is None else Sample(image, prompt)
        )
    return refused.value


def test_picture_and_facts_lie_in_the_runs_folder(tmp_path):
    error = fail(tmp_path)
    place = tmp_path / "failed_reward" / "round_000003_shapes_00007"
    assert str(error) == f"reward (Judge) returned nan; saved for inspection: {place}.png"
    with Image.open(f"{place}.png") as picture:
        assert picture.size == (4, 5)
        assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert json.loads((place.parent / f"{place.name}.json").read_text()) == {
        "problem": "reward (Judge) returned nan",
        "prompt": "a red circle",
        "task": "shapes",
        "metadata": CLAUSES,
        "index": 7,
        "group": 2,
    }
    assert len(list(place.parent.iterdir())) == 2


def test_pixels_that_are_no_number_can_be_saved(tmp_path):
    image = RED.clone()
    image[:, 0, 0] = torch.nan
    fail(tmp_path, image)
    with Image.open(tmp_path / "failed_reward" / "round_000003_shapes_00007.png") as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 0)
        assert picture.getpixel((1, 0)) == (255, 0, 0)


def test_what_prevents_saving_does_not_hide_the_problem(tmp_path):
    (tmp_path / "failed_reward").write_text("in the way")
    assert str(fail(tmp_path)).startswith("reward (Judge) returned nan; the sample could not be saved (")
    odd = Prompts(*PROMPT._columns()[:2], ({"box": {1, 2}},), *PROMPT._columns()[3:])
    assert "not JSON serializable" in save_sample(Sample(RED, odd), tmp_path / "other", "x", "any")


def test_errors_without_a_sample_and_other_errors_pass(tmp_path):
    assert str(fail(tmp_path, None)) == "reward (Judge) returned nan"
    with pytest.raises(KeyError), failures_saved(tmp_path, "evaluation"):
        raise KeyError("bug")
    assert not list(tmp_path.iterdir())
