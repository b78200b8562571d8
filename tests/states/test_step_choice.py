"""The drawn steps: where they lie, how often, and that their weights make the expected loss that of all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import scipy.stats
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.config.folder import config_folder
from diffopd.randomness import torch_generator
from diffopd.states import StepChoice
from diffopd.states.step_choice import beta_shares

FILES = sorted(path.stem for path in (Path(config_folder()) / "states").glob("*.yaml"))


@pytest.fixture(scope="module", params=FILES)
def choice(request):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return instantiate(compose(f"states/{request.param}").states)


def test_the_steps_of_a_file_lie_in_the_rollout(choice):
    for num_steps in (10, 40):
        drawn = choice.draw(num_steps, torch_generator(0, "states", 3))
        assert list(drawn) == sorted(set(drawn))
        assert set(drawn) <= set(choice.steps(num_steps)) <= set(range(num_steps))
        assert drawn == choice.draw(num_steps, torch_generator(0, "states", 3))


@pytest.mark.parametrize(
    ("first", "last", "size", "steps"),
    [
        (0, -1, None, range(10)),
        (0, -2, None, range(9)),
        (-4, -2, 1, range(6, 9)),
        (2, 4, 2, range(2, 5)),
    ],
)
def test_numbers_from_the_end_are_steps(first, last, size, steps):
    assert StepChoice(first=first, last=last, size=size, beta=None).steps(10) == steps


def test_every_step_is_drawn_as_often_as_its_weight_says():
    choice = StepChoice(first=1, last=6, size=2, beta=None)
    assert choice.weight(10) == 3
    counts = Counter(step for n in range(3000) for step in choice.draw(10, torch_generator(0, "states", n)))
    assert set(counts) == set(range(1, 7))
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts.values())  # 4.6 standard errors


def test_all_steps_need_no_weight():
    choice = StepChoice(first=0, last=-1, size=None, beta=None)
    assert choice.weight(10) == 1
    assert choice.draw(4, torch_generator(0, "states", 0)) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("settings", "num_steps", "message"),
    [
        ({"first": 0, "last": -2, "size": None}, 1, r"states\.last=-2 leaves nothing to train"),
        ({"first": 5, "last": 4, "size": None}, 10, r"states\.first=5 to states\.last=4 leaves nothing"),
        ({"first": 0, "last": 10, "size": None}, 10, "steps are 0 to 9"),
        ({"first": 0, "last": 2, "size": 4}, 10, r"states\.size=4 is more than the 3 steps"),
    ],
)
def test_an_impossible_choice_is_refused(settings, num_steps, message):
    with pytest.raises(ValueError, match=message):
        StepChoice(**settings, beta=None).steps(num_steps)


def test_nothing_drawn_is_refused():
    with pytest.raises(ValueError, match=r"states\.size=0 must be at least 1"):
        StepChoice(first=0, last=-1, size=0, beta=None)


def test_the_shares_of_a_beta_variable_are_those_of_its_distribution():
    for a, b in [(5, 2), (2, 5), (1, 1), (3.5, 1.25)]:
        bounds = scipy.stats.beta(a, b).cdf([i / 16 for i in range(17)])
        assert beta_shares(16, a, b).numpy() == pytest.approx(bounds[1:] - bounds[:-1], abs=2e-6)
    # By hand: Beta(5, 2) has the distribution function 6 x^5 - 5 x^6.
    assert beta_shares(2, 5, 2)[0].item() == pytest.approx(6 / 32 - 5 / 64, abs=1e-6)


def test_steps_are_drawn_by_the_beta_distribution():
    choice = StepChoice(first=0, last=-1, size=1, beta=[5, 2])
    drawn = [choice.draw(16, torch_generator(0, "states", n))[0] for n in range(4000)]
    expected = beta_shares(16, 5, 2).tolist()
    for step, share in enumerate(expected):
        spread = (share * (1 - share) / 4000) ** 0.5
        assert abs(drawn.count(step) / 4000 - share) <= 4.5 * spread + 1e-3
    assert choice.weight(16) == 16


def test_several_steps_drawn_by_a_beta_distribution_differ():
    choice = StepChoice(first=2, last=9, size=4, beta=[5, 2])
    for n in range(50):
        steps = choice.draw(10, torch_generator(0, "states", n))
        assert len(set(steps)) == 4
        assert set(steps) <= set(range(2, 10))


@pytest.mark.parametrize(
    ("beta", "size", "message"),
    [
        ([5], 1, r"states\.beta=\[5\] must be two numbers from 1 to 1000"),
        ([5, 2, 1], 1, "must be two numbers"),
        ([0.5, 2], 1, "must be two numbers from 1"),
        ([float("nan"), 2], 1, "must be two numbers from 1"),
        ([5, 2], None, r"states\.beta=\[5, 2\] needs states\.size"),
    ],
)
def test_an_impossible_beta_is_an_error(beta, size, message):
    with pytest.raises(ValueError, match=message):
        StepChoice(first=0, last=-1, size=size, beta=beta)
