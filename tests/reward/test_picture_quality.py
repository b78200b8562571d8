from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.reward.drawn.contrast import contrast
from diffopd.reward.drawn.palette_harmony import palette_harmony
from diffopd.reward.drawn.visual_balance import balance
from diffopd.types import Prompts
from diffopd.world.colours import COLOURS
from diffopd.world.request import FORMS

CONF = Path(__file__).parents[2] / "conf/reward"
QUALITY = OmegaConf.load(CONF / "picture_quality.yaml")
NAMES = ("palette_harmony", "contrast", "balance", "spectrum")


def scorer(name):
    config = OmegaConf.load(CONF / "spectrum.yaml") if name == "spectrum" else QUALITY.rewards[name]
    return instantiate(config)


def score(reward, images):
    rows = tuple(range(len(images)))
    return reward(
        images, Prompts(("",) * len(images), ("aesthetic",) * len(images), ({},) * len(images), rows, rows)
    )


def checkerboard(period, colours=((0.85, 0.1, 0.1), (0.5, 0.5, 0.5))):
    index = torch.arange(32) // period
    board = (index[:, None] + index) % 2
    return torch.tensor(colours)[board].permute(2, 0, 1)


def flats():
    greys = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 32, 32)
    colours = torch.tensor(list(COLOURS.values())).view(-1, 3, 1, 1).expand(-1, 3, 32, 32) / 255
    return torch.cat([greys, colours])


def noises():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(20, 3, 32, 32, generator=generator)
    grey = torch.rand(20, 1, 32, 32, generator=generator).round().expand(20, 3, 32, 32)
    return torch.cat([uniform, grey])


def checkerboards(*periods):
    black_white = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return torch.stack([b for p in periods for b in (checkerboard(p), checkerboard(p, black_white))])


@pytest.fixture(scope="module")
def clean(drawings):
    return drawings(FORMS, 400, seed=3, task="aesthetic")[0]


@pytest.mark.parametrize("name", NAMES)
def test_trivial_images_score_less_than_drawings(name, clean):
    reward = scorer(name)
    median = score(reward, clean).value.median()
    assert score(reward, flats()).value.max() <= 1e-4
    assert score(reward, checkerboards(1, 2, 4)).value.max() < median
    assert score(reward, noises()).value.max() < median


def test_the_mixture_is_won_by_drawings(clean):
    reward = instantiate(QUALITY)
    best = score(reward, clean).value.quantile(0.98)
    trivial = torch.cat([flats(), noises(), checkerboards(1, 2, 4, 8, 16)])
    assert score(reward, trivial).value.max() < best - 0.1


def test_drawings_leave_something_to_gain(clean):
    low, median, high = score(instantiate(QUALITY), clean).value.quantile(torch.tensor([0.1, 0.5, 0.99]))
    assert 0.4 < median < 0.65
    assert high - low > 0.25


@pytest.mark.parametrize("name", NAMES)
def test_bounds_hold(name, clean):
    value = score(scorer(name), torch.cat([clean, flats(), noises(), checkerboards(1, 2, 4, 8, 16)])).value
    assert value.min() >= 0
    assert value.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_even_on_flat_images(name, clean):
    images = torch.cat([clean[:8], flats(), noises()[:2]]).clone().requires_grad_()
    score(scorer(name), images).value.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad[:8].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_smooth(name, clean):
    """Along a fade between two drawings the directional derivative equals the difference quotient."""
    reward = scorer(name)
    a, b = clean[:16].double(), clean[16:32].double()
    step = 1e-3

    def faded(t):
        return score(reward, ((1 - t) * a + t * b).float()).value.double()

    for t in (0.1, 0.5, 0.9):
        assert (faded(t + step) - faded(t)).abs().max() < 20 * step  # no jump
        bend = faded(t + step) - 2 * faded(t) + faded(t - step)
        assert bend.abs().max() < 2000 * step**2  # no kink: a kink's bend is of the order of the step


def test_harmony_worked_by_hand():
    knobs = {"accent_std": 0.1, "grey_chroma": 0.0}
    halves = torch.zeros(3, 3, 32, 32)
    halves[:, 0, :, :16] = 0.8  # red on the left
    halves[1, 1:, :, 16:] = 0.8  # cyan, its complement, on the right
    halves[2, :2, :, 16:] = 0.8  # yellow, 60 degrees away, on the right
    one_hue, complementary, apart = palette_harmony(halves, **knobs)
    # One hue: agreement 1, and a variance near 0.4^2 = 0.16 (less at the soft border) over 0.16 + 0.01.
    assert 0.9 < one_hue < 0.16 / 0.17
    # Equal chroma on both sides leaves little accent, so compare agreement where both have the same.
    assert complementary > apart


def test_contrast_worked_by_hand():
    halves = torch.zeros(1, 3, 32, 32)
    halves[..., 16:] = 1.0
    # Columns of windows 2 apart: five see 0, three a quarter to three quarters, five see 1: std = 0.4595.
    std = torch.tensor([0.0] * 5 + [0.25, 0.5, 0.75] + [1.0] * 5).std(correction=0).item()
    assert contrast(halves, best_rms=std, texture=0.0).item() == pytest.approx(1, abs=1e-4)
    assert contrast(halves, best_rms=std * 2, texture=0.0).item() == pytest.approx(0.64, abs=1e-4)
    assert contrast(halves, best_rms=std / 2, texture=0.0).item() == pytest.approx(0.64, abs=1e-4)


def test_texture_costs_contrast():
    halves = torch.full((1, 3, 32, 32), 0.3)
    halves[..., 16:] = 0.7
    rough = halves + 0.2 * (checkerboard(1, ((-1.0,) * 3, (1.0,) * 3)))
    smooth_value, rough_value = (contrast(x, best_rms=0.2, texture=0.25).item() for x in (halves, rough))
    assert contrast(rough, best_rms=0.2, texture=0.0).item() == pytest.approx(
        contrast(halves, best_rms=0.2, texture=0.0).item(), abs=1e-5
    )
    # The added variance, 0.04, is about that between the windows: calmness falls by about 1 / 1.25.
    assert rough_value < 0.85 * smooth_value


def test_balance_prefers_the_middle_and_ignores_mirroring():
    knobs = {"centre_width": 0.35, "least_weight": 0.01}
    dot = torch.full((1, 3, 32, 32), 0.8)
    dot[..., 11:21, 11:21] = 0.2
    values = [balance(dot.roll(shift, 3), **knobs).item() for shift in (0, 2, 4, 6, 8)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[-1]
    aside = dot.roll(5, 3)
    assert balance(aside.flip(3), **knobs).item() == pytest.approx(balance(aside, **knobs).item(), abs=1e-5)


def test_scores_oppose_the_other_tasks_in_places(drawings):
    """Attribute binding may ask for two hues at right angles; palette harmony would rather not."""
    pairs, _ = drawings(("color_attr",), 100, seed=5)
    alone, _ = drawings(("colors",), 100, seed=5)
    harmony = scorer("palette_harmony")
    assert score(harmony, pairs).value.mean() < score(harmony, alone).value.mean() - 0.05


def test_spectrum_shares_are_checked():
    with pytest.raises(ValueError, match="4 positive numbers that sum to 1"):
        scorer("spectrum").__class__(shares=[0.5, 0.5], least_energy=0.1)
