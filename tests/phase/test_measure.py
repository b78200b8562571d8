"""Teachers scored before training: the same noise for all, their own guidance, any number of processes."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from diffopd.phase.measure import measure_teachers
from diffopd.policy import Fixed
from diffopd.randomness import normal_rows
from diffopd.types import Prompts


class Brightness:
    """Mean of an image, plus 10 times the number in its prompt, so that rows cannot be mixed up."""

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3)) + torch.tensor([10.0 * len(text) for text in prompts.texts])


PROMPTS = Prompts(
    texts=("a", "bb", "ccc", "dddd"),
    tasks=("ocr", "aesthetic", "ocr", "aesthetic"),
    metadata=({}, {}, {}, {}),
    indices=(3, 1, 4, 0),
    groups=(3, 1, 4, 0),
)


@pytest.fixture
def phase(world, tmp_path):
    """A built run whose trainer is attached, as in training."""
    experiment = world.build("mopd_ode", tmp_path / "run", "sampler.num_steps=4")
    experiment.phase.trainer = experiment.trainer
    return experiment.phase


@torch.no_grad()
def expected_score(phase, name, row):
    """One teacher's reward on one prompt, sampled alone."""
    prompt = PROMPTS.select([row])
    guidance = phase.teacher.guidance_scales[name]
    policy = Fixed(phase.model, f"teacher_{name}").given(phase.conditioning(prompt), guidance)
    start = normal_rows(phase.seed, "routing/start", 0, prompt.indices, phase.model.latent_shape)
    *_, last = phase.sampler.rollout(policy, start, lambda step: torch.zeros_like(start))
    return float(Brightness()(phase.images(last.next_latent), prompt))


def test_every_teacher_is_scored_on_every_task_from_the_same_noise(phase):
    found = measure_teachers(phase, phase.teacher, phase.sampler, Brightness(), PROMPTS)
    assert set(found) == {"composition", "ocr", "aesthetic"}
    for name, scores in found.items():
        alone = [expected_score(phase, name, row) for row in range(4)]
        assert scores["ocr"] == pytest.approx((alone[0] + alone[2]) / 2, abs=1e-4)
        assert scores["aesthetic"] == pytest.approx((alone[1] + alone[3]) / 2, abs=1e-4)
    assert len({scores["ocr"] for scores in found.values()}) == 3


def test_several_processes_share_the_prompts_and_agree(phase, monkeypatch):
    """Each process scores every second prompt; what one gathers is put together here by hand."""
    import diffopd.phase.measure as module

    whole = measure_teachers(phase, phase.teacher, phase.sampler, Brightness(), PROMPTS)
    monkeypatch.setattr(module, "num_processes", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(type(phase), "global_rank", property(lambda self, rank=rank: rank))
        seen = []
        monkeypatch.setattr(module, "gathered", lambda *columns, seen=seen: seen.append(columns) or columns)
        measure_teachers(phase, phase.teacher, phase.sampler, Brightness(), PROMPTS)
        shares.append(seen)
    for place, name in enumerate(phase.teacher.tasks):
        tasks, indices, values = ([*a, *b] for a, b in zip(shares[0][place], shares[1][place], strict=True))
        assert sorted(indices) == [0, 1, 3, 4]
        for task, score in whole[name].items():
            own = [value for value, of in zip(values, tasks, strict=True) if of == task]
            assert sum(own) / len(own) == pytest.approx(score, abs=1e-4)


def test_no_more_rollouts_at_once_than_the_memory_holds(phase, monkeypatch, caplog):
    """As many rows as ``phase.micro_batch_size`` says, as in every round; a line tells of each teacher."""
    whole = measure_teachers(phase, phase.teacher, phase.sampler, Brightness(), PROMPTS)
    sizes = []
    images = phase.images
    monkeypatch.setattr(phase, "images", lambda latents: sizes.append(len(latents)) or images(latents))
    monkeypatch.setattr(phase, "settings", dataclasses.replace(phase.settings, micro_batch_size=3))
    caplog.clear()
    with caplog.at_level(logging.INFO, "diffopd"):
        parts = measure_teachers(phase, phase.teacher, phase.sampler, Brightness(), PROMPTS)
    assert sizes == [3, 1] * 3
    for name, scores in whole.items():
        assert parts[name] == pytest.approx(scores, abs=1e-4)
    lines = [record.message for record in caplog.records if record.message.startswith("routing:")]
    assert lines[0] == f"routing: scoring teacher {next(iter(whole))} (1 of 3) on 4 prompts"
    assert len(lines) == 3
