import dataclasses
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.config.aliases import choices
from diffopd.files.png import save_png
from diffopd.metric.clean_drawings import clean_drawings
from diffopd.reward.checked import RewardError
from diffopd.types import Picture, Prompts
from support.tiny_scorers import scorer_settings

CONF = Path(__file__).parents[2] / "conf"
NEED_PICTURES = {
    *("picture_distance", "dino_distance", "lpips", "frechet_to_pictures"),
    *("picture_nearness", "dino_nearness", "lpips_nearness", "vlm_judge", "vlm_judge_local", "hpsv3"),
}
ELSEWHERE = {"geneval", "remote", "unifiedreward", *NEED_PICTURES}
"""Need weights, pictures or a server; tested on their own in tests/reward, and below."""
METRICS = sorted({*choices("metric")} - ELSEWHERE)
REWARDS = sorted({*choices("reward")} - ELSEWHERE)
OWN = ("._target_=diffopd.reward.drawn.contrast.ContrastReward", ".best_rms=0.14", ".texture=0.1")
"""Stands for a user's class where a choice asks for one."""
WORDS = {"worded_composition": ("a photo of a circle",)}
"""Prompts of choices that a sign is none for."""
COMPOSITION = {
    "tag": "single_object",
    "include": [{"class": "circle", "count": 1}],
    "figure": 8,
    "colours": None,
}


@pytest.fixture(scope="session")
def scorers(tmp_path_factory):
    """Settings of every learned scorer on a small random model."""
    return scorer_settings(tmp_path_factory.mktemp("scorers"))


@pytest.fixture
def build(scorers):
    """``build(group, name)``: the choice of a group, with what only a user can give."""
    mixture = {f".rewards.{name}": scorers[name] for name in ("pickscore", "clipscore", "hpsv2")}
    five = {f".rewards.{name}": settings for name, settings in scorers.items()}
    weights = {name: {"": settings} for name, settings in scorers.items()}
    weights |= {
        "clip_score": {".reward": scorers["clipscore"]},
        "pick_clip_hps": mixture,
        "model_based": five,
    }

    def make(group, name):
        reward = "metric.reward" if group == "metric" else "reward"
        own = [f"++{reward}{setting}" for setting in OWN] if name in ("custom", "mean") else []
        if name == "model_based":  # without the one that needs a server
            own = [f"~{reward}.{part}.unifiedreward" for part in ("rewards", "weights")]
            own += [f"metric.parts=[{','.join(scorers)}]"] if group == "metric" else []
        for place, settings in weights.get(name, {}).items():
            own += [
                f"{reward}{place}.{key}={'null' if value is None else value}"
                for key, value in settings.items()
            ]
        return composed_and_built(group, name, own)

    return make


def composed_and_built(group, name, own):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(overrides=["+domain=drawn", f"+{group}={name}", *own])[group])


def batch(task, text='a sign that says "CAT"'):
    images = clean_drawings(forms=["single_object", "sign"], number=4, seed=0, held_out=False)
    rows = tuple(range(4))
    return images, Prompts((text,) * 4, (task,) * 4, (COMPOSITION,) * 4, rows, rows)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_builds_and_reports(build, name):
    metric = build("metric", name)
    metric.update(*batch("composition", *WORDS.get(name, ())))
    result = metric.compute()
    assert result.pop("num_images") == 4
    assert all(value.isfinite() for value in result.values())
    assert result


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_meets_the_protocol(build, name):
    images, prompts = batch("aesthetic", *WORDS.get(name, ()))
    scores = build("reward", name)(images, prompts)
    assert scores.value.shape == (4,)
    assert scores.value.isfinite().all()
    assert scores.scale
    assert not scores.value.requires_grad
    assert torch.equal(scores.value, build("reward", name)(images, prompts).value)


def test_the_mixed_set_scores_three_tasks_at_once(build):
    images, prompts = batch("composition")
    tasks = ("composition", "ocr", "aesthetic", "ocr")
    mixed = Prompts(prompts.texts, tasks, prompts.metadata, prompts.indices, prompts.groups)
    scores = build("reward", "by_task")(images, mixed)
    assert scores.value.isfinite().all()
    assert {name.split("/")[0] for name in scores.parts} == set(tasks)
    for name, task in (("composition", "composition"), ("ocr", "ocr"), ("aligned_quality", "aesthetic")):
        rows = [row for row, t in enumerate(tasks) if t == task]
        alone = build("reward", name)(images[rows], mixed.select(rows)).value
        torch.testing.assert_close(scores.value[rows], alone)


def test_distances_need_prompts_with_pictures(build, tmp_path):
    metric = build("metric", "picture_distance")
    images, prompts = batch("nearness")
    with pytest.raises(RewardError, match="no picture to compare with"):
        metric.update(images, prompts)
    save_png(images[0], tmp_path / "a.png")
    picture = Picture(str(tmp_path / "a.png"), "", 32, 32)
    metric.update(images, dataclasses.replace(prompts, targets=(picture,) * 4))
    found = metric.compute()
    assert found["value"] == pytest.approx(1 - found["distance"].item())
    assert metric.samples("distance")[0] < 1e-6  # the picture itself
    assert metric.samples("distance")[1] > 0.05


def test_clean_drawings_of_the_benchmarks_prompts_are_near_those_of_frechet(build):
    """A reference of another mixture of prompts once put them at 1, as far away as a poor model's."""
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    metric = build("metric", "frechet")
    for forms in (tags, ("sign",), ("painting",)):
        metric.update(clean_drawings(forms=forms, number=66, seed=3, held_out=True))
    assert metric.compute()["frechet_distance"] < 0.35


def test_a_folder_is_a_reference_of_frechet(tmp_path):
    (tmp_path / "pictures").mkdir()
    images = clean_drawings(forms=["single_object"], number=6, seed=0, held_out=False)
    for number, image in enumerate(images):
        save_png(image, tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text("a drawing")
    own = [f"metric.reference.path={tmp_path / 'pictures'}", "metric.reference.side=32"]
    metric = composed_and_built("metric", "frechet_to_pictures", own)
    metric.update(images)
    assert abs(metric.compute()["frechet_distance"].item()) < 1e-6
