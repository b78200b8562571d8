"""Scoring in the background changes when scores are computed, and nothing else."""

from __future__ import annotations

import threading

import pytest
import torch

from diffopd.non_finite import NonFiniteError
from diffopd.phase.round_scoring import RoundScoring
from diffopd.types import Prompts, Scores
from support.slow import slow_but
from support.tiny_runs import run_rounds

CPU = torch.device("cpu")


def prompts(*groups):
    rows = tuple(range(len(groups)))
    return Prompts(("x",) * len(rows), ("t",) * len(rows), ({},) * len(rows), rows, groups)


def images(number):
    return torch.arange(float(number)).view(number, 1, 1, 1).expand(number, 3, 2, 2) / number


class Noting:
    """Scores by brightness, and notes what was scored together and in which thread."""

    def __init__(self):
        self.calls, self.threads = [], []

    def __call__(self, images, prompts):
        self.calls.append(prompts.indices)
        self.threads.append(threading.current_thread().name)
        return {"reward": Scores(images.mean((1, 2, 3)), {}, "any")}


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("sizes", "together"),
    [
        ([6], [(0, 1, 2, 3, 4, 5)]),
        ([2, 2, 2], [(0, 1, 2), (3, 4, 5)]),  # groups of three end within the second and third
        ([1, 4, 1], [(0, 1, 2), (3, 4, 5)]),
        ([3, 3], [(0, 1, 2), (3, 4, 5)]),
    ],
)
def test_a_prompts_samples_are_scored_together_as_soon_as_they_are_there(in_background, sizes, together):
    noting, pictures = Noting(), images(6)
    with RoundScoring(prompts(4, 4, 4, 7, 7, 7), noting, in_background=in_background, device=CPU) as scoring:
        start = 0
        for size in sizes:
            scoring.add(pictures[start : start + size])
            start += size
        found = scoring.result()
    assert noting.calls == together
    assert all(name.startswith("scoring") is in_background for name in noting.threads)
    assert torch.equal(found.images, pictures)
    assert torch.equal(found.scores["reward"].value, pictures.mean((1, 2, 3)))


def test_sampling_goes_on_while_scores_are_computed():
    sampled = threading.Event()

    def waits_for_the_next(images, prompts):
        assert sampled.wait(60)
        return {"reward": Scores(images.mean((1, 2, 3)), {}, "any")}

    with RoundScoring(prompts(0, 1), waits_for_the_next, in_background=True, device=CPU) as scoring:
        scoring.add(images(2)[:1])
        scoring.add(images(2)[1:])
        sampled.set()
        assert scoring.result().scores["reward"].value.shape == (2,)


def test_an_error_ends_the_round_and_what_is_left_is_dropped():
    calls = []

    def fails(images, prompts):
        calls.append(prompts.indices)
        raise OSError(f"no answer for {prompts.indices[0]}")

    def a_round():
        with RoundScoring(prompts(0, 1, 2), fails, in_background=True, device=CPU) as scoring:
            for row in range(3):
                scoring.add(images(3)[row : row + 1])
            scoring.result()

    with pytest.raises(OSError, match="no answer for 0"):
        a_round()
    assert calls[0] == (0,)


@pytest.mark.parametrize(
    "experiment",
    slow_but(["guard_aesthetic", "teacher_ocr", "multi_nft"], "guard_aesthetic", rest=pytest.mark.slow),
)
def test_a_training_is_the_same_bit_for_bit(world, tmp_path, experiment):
    runs = {}
    for name, overrides in {
        "now": [],
        "background": ["phase.score_in_background=true"],
    }.items():
        few = ("trainer.max_epochs=2", "phase.micro_batch_size=2", "sampler.num_steps=5")
        built = world.build(experiment, tmp_path / name, *few, *overrides)
        threads = []
        score = built.phase._score
        built.phase._score = lambda *a, score=score, threads=threads: (
            threads.append(threading.current_thread().name) or score(*a)
        )
        runs[name] = run_rounds(built)
        assert len(threads) > 2
        assert all(thread.startswith("scoring") is (name == "background") for thread in threads)
    now, background = runs["now"], runs["background"]
    assert now.metrics == background.metrics
    assert len(now.gradients) == len(background.gradients)
    for update in range(len(now.gradients)):
        assert now.flat_gradient(update).norm() > 0
        assert torch.equal(now.flat_gradient(update), background.flat_gradient(update))
    for name, parameter in now.phase.policies["student"].weights().items():
        assert torch.equal(parameter, background.phase.policies["student"].weights()[name])


def test_a_sample_that_fails_in_the_background_is_named_and_saved(world, tmp_path):
    experiment = world.build(
        "teacher_aesthetic", tmp_path / "run", "phase.micro_batch_size=3", "phase.score_in_background=true"
    )

    def fails_at_the_fifth(images, prompts):
        value = images.mean((1, 2, 3))
        value[[index == 4 for index in prompts.indices]] = torch.nan
        return value

    experiment.phase.reward = fails_at_the_fifth
    with pytest.raises(
        NonFiniteError, match=r"reward \(fails_at_the_fifth\) returned 'value' = nan for sample 4 "
    ):
        experiment.fit()
    assert (tmp_path / "run" / "failed_reward" / "round_000001_aesthetic_00004.png").is_file()
