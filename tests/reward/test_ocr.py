import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.text.ocr import OcrReward, edit_distance, ocr_reward, quoted_text
from diffopd.types import Prompts

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/ocr_rule.json").read_text())


def prompts(*texts):
    rows = tuple(range(len(texts)))
    return Prompts(texts, ("ocr",) * len(texts), ({},) * len(texts), rows, rows)


def test_rule_equals_the_published_one():
    assert len(GOLDEN) == 60
    for case in GOLDEN:
        assert ocr_reward(case["prompt"], case["recognised"]) == pytest.approx(case["reward"], abs=1e-12)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("CAT", 1),
        ("c a t", 1),
        ("concatenate", 1),  # extra text is free while the target is in it
        ("CA", 2 / 3),
        ("CAR", 2 / 3),
        ("", 0),
        ("XYZXYZXYZ", 0),  # distance capped at the target's length
    ],
)
def test_rule_by_hand(read, expected):
    assert ocr_reward('a sign that says "CAT"', read) == pytest.approx(expected)


def test_quoted_text_is_the_first_pair():
    assert quoted_text('"A" and "B"') == "A"
    with pytest.raises(ValueError, match="between double quotes"):
        quoted_text("a photo of a cat")


@pytest.mark.parametrize(("a", "b", "distance"), [("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)])
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_reward_with_a_given_recogniser():
    reward = OcrReward(recognizer=lambda images: ["cat", "dot"])
    scores = reward(torch.zeros(2, 3, 8, 8), prompts('"CAT"', '"DOG"'))
    assert scores.value.tolist() == pytest.approx([1, 2 / 3])
    assert scores.parts["exact"].tolist() == [1, 0]


def test_prompt_without_quotes_is_named():
    reward = OcrReward(recognizer=lambda images: ["x"] * len(images))
    with pytest.raises(RewardError, match=r"between double quotes.*sample 1 .*a photo of a cat"):
        score_checked(reward, torch.zeros(2, 3, 8, 8), prompts('"CAT"', "a photo of a cat"), "reward")


@pytest.fixture(scope="module")
def reward():
    return instantiate(config())


def config():
    """``reward=ocr`` for the embedded model's drawings."""
    conf = Path(__file__).parents[2] / "conf"
    domain = OmegaConf.load(conf / "domain/drawn.yaml")
    return OmegaConf.create({"domain": domain, "reward": OmegaConf.load(conf / "reward/ocr.yaml")}).reward


def test_clean_signs_are_read(reward, drawings):
    images, signs = drawings(("sign",), 100, seed=7, task="ocr")
    assert reward(images, signs).value.mean() >= 0.98


def test_blank_images_read_as_nothing(reward):
    assert reward.recognizer(torch.full((2, 3, 32, 32), 0.5)) == ["", ""]


def test_flags_of_a_call_with_detection_do_not_stick(drawings):
    recognizer = instantiate(config(), recognizer={"detect": True, "upscale": 8}).recognizer
    images, signs = drawings(("sign",), 4, seed=8, task="ocr")
    first, again = recognizer(images), recognizer(images)
    assert first == again
    assert sum(ocr_reward(p, t) for p, t in zip(signs.texts, first, strict=True)) / 4 > 0.9


def test_small_writing_in_a_large_picture_is_found():
    """16 pixels high in 1024, which are lost where the picture is shrunk to 256 first."""
    noise = np.random.default_rng(0).normal(150, 12, (1024, 1024, 3))
    picture = Image.fromarray(noise.clip(0, 255).astype("uint8"))
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf", 16)
    ImageDraw.Draw(picture).text((379, 614), "OPEN LATE", font=font, fill=(20, 20, 60))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    recognizer = instantiate(config(), recognizer={"detect": True, "upscale": 1}).recognizer
    assert recognizer(pixels) == ["OPEN LATE"]
