from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.ndimage import gaussian_filter

from diffopd.reward.geneval.geneval import score_detections
from diffopd.world.colours import COLOURS
from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.request import GENEVAL_TAGS, metadata
from diffopd.world.scene import PLACES, Object, Scene
from diffopd.world.shapes import SHAPES
from diffopd.world.split import random_request


@pytest.fixture(scope="module")
def detector():
    return instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf/reward/composition.yaml").detector)


def accuracy(detector, tag, number, spoil=lambda image, rng: image):
    verdicts = []
    for i in range(number):
        rng = np.random.default_rng((20, i))
        request = random_request(tag, rng, held_out=i % 2 == 0)
        image = draw(random_scene(request, rng, allow_held_out=True)).astype(np.float32)
        verdicts.append(score_detections(detector.detect(spoil(image, rng)), metadata(request)).official)
    return np.mean(verdicts)


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_clean_drawings_are_right(detector, tag):
    assert accuracy(detector, tag, 84) >= 0.99


def test_slightly_blurred_and_noisy_drawings_are_right(detector):
    def spoil(image, rng):
        return (gaussian_filter(image, (0.6, 0.6, 0)) + rng.normal(0, 6, image.shape)).clip(0, 255)

    assert np.mean([accuracy(detector, tag, 20, spoil) for tag in GENEVAL_TAGS]) >= 0.97


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_colour_is_placed_exactly(detector, shape, place):
    for colour in COLOURS:
        image = draw(Scene(place, 3, (Object(shape, colour, left=5, top=9, size=12),)))
        found = [d for d in detector.detect(image) if d.confidence > 0.3]
        assert [(d.name, d.colour) for d in found] == [(shape, colour)]
        assert found[0].box == pytest.approx((5, 9, 17, 21), abs=1.01)
        assert found[0].confidence > 0.9


def test_batches_equal_single_images_and_empty_pictures_hold_nothing(detector):
    drawing = draw(Scene("fog", 0, (Object("ring", "blue", 3, 3, 14),)))
    images = torch.stack(
        [torch.from_numpy(drawing).permute(2, 0, 1) / 255, torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]
    )
    found = detector(images)
    assert [len(f) for f in found] == [1, 0, 0]
    assert found[0] == detector.detect(drawing)
    assert all(not detector.detect(draw(Scene(place, 5))) for place in PLACES)


def test_noise_is_not_taken_for_objects(detector):
    noise = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sum(d.confidence > 0.3 for found in detector(noise) for d in found) <= 1
