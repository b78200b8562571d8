"""The aesthetics reward that hears the prompt: pictures that ignore it do not win."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.world.colours import COLOURS

REWARD = OmegaConf.load(Path(__file__).parents[2] / "conf/reward/aligned_quality.yaml")
NUMBER = 80


@pytest.fixture(scope="module")
def paintings(drawings):
    return drawings(("painting",), NUMBER, seed=3, task="aesthetic")


@pytest.fixture(scope="module")
def scored(paintings):
    return instantiate(REWARD)(*paintings)


def blobs():
    """A soft disc of any color, size and place near the middle on any ground: it pleases without a prompt."""
    generator = torch.Generator().manual_seed(0)

    def drawn(low, high, *shape):
        return low + (high - low) * torch.rand(NUMBER, *shape, generator=generator)

    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    distance = ((x - drawn(12, 20, 1, 1)) ** 2 + (y - drawn(12, 20, 1, 1)) ** 2).sqrt()
    disc = torch.sigmoid((drawn(2, 16, 1, 1) - distance) / drawn(0.3, 4.3, 1, 1))[:, None]
    return disc * drawn(0, 1, 3, 1, 1) + (1 - disc) * drawn(0, 1, 3, 1, 1)


def flats():
    colours = torch.tensor([*COLOURS.values(), (0, 0, 0), (128, 128, 128), (255, 255, 255)]) / 255
    return colours.repeat(NUMBER, 1)[:NUMBER, :, None, None].expand(NUMBER, 3, 32, 32)


def noise():
    return torch.rand(NUMBER, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def boards():
    index = torch.arange(32)
    boards = [((index[:, None] // period + index // period) % 2).float() for period in (1, 2, 4, 8, 16)]
    return torch.stack(boards).repeat(NUMBER, 1, 1)[:NUMBER, None].expand(NUMBER, 3, 32, 32)


@pytest.mark.parametrize("trivial", [blobs, flats, noise, boards])
def test_pictures_that_ignore_the_prompt_score_less_than_drawings(paintings, scored, trivial):
    assert instantiate(REWARD)(trivial(), paintings[1]).value.max() < scored.value.median()


def test_another_prompts_drawing_scores_less(paintings, scored):
    images, prompts = paintings
    others = instantiate(REWARD)(images.roll(1, 0), prompts).value
    assert others.median() < scored.value.median() - 0.15
    assert (others > scored.value.median()).float().mean() < 0.1


def test_drawings_leave_something_to_gain(scored):
    low, median, high = scored.value.quantile(torch.tensor([0.1, 0.5, 0.99]))
    assert 0.5 < median < 0.7
    assert high - low > 0.2
    assert set(scored.parts) == {"alignment", "contrast", "balance"}


def test_it_opposes_the_other_tasks_in_places(drawings, scored):
    """It would rather have things near the middle than on its sides, and one figure than letters."""
    apart, prompts = drawings(("position",), 40, seed=5)
    reward = instantiate(REWARD)
    together = reward(apart.roll(4, 2).roll(4, 3), prompts).parts["balance"]
    assert (together - reward(apart, prompts).parts["balance"]).abs().mean() > 0.03
    signs = reward(*drawings(("sign",), 40, seed=5, task="ocr")).parts["balance"]
    assert signs.quantile(0.9) < scored.parts["balance"].quantile(0.9)
