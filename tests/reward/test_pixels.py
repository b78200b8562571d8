import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from diffopd.reward.learned.pixels import cut_bilinear, cut_by_pil, normalised, padded_bicubic

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def smooth(height, width):
    """Waves of every direction in [0.1, 0.9], so that filters neither overshoot nor clip."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 2, width), indexing="ij")
    waves = torch.stack([torch.sin(2 * x + y), torch.cos(3 * y - x), torch.sin(x * y)])
    return (0.5 + 0.4 * waves)[None]


def noise(height, width, seed=0):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def pictures(images):
    return [Image.fromarray(p) for p in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def undone(pixels):
    """What was normalised, in [0, 1]."""
    return pixels.permute(0, 2, 3, 1).double().numpy() * STD + MEAN


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (24, 24), (16, 16), (50, 37), (37, 50), (24, 25)])
def test_cut_by_pil_equals_the_librarys_processor(size):
    images = noise(*size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = processor(images=pictures(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(cut_by_pil(images, 24, "floor"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "floor", "rounded"), [(26, 1, 1), (25, 0, 0), (27, 1, 2), (29, 2, 2)])
def test_half_a_pixel_is_rounded_as_each_library_does(width, floor, rounded):
    images = noise(24, width)  # the shorter side is right, so nothing is resized
    whole = normalised((images * 255).round() / 255)
    for offset, left in (("floor", floor), ("round", rounded)):
        found = cut_by_pil(images, 24, offset)
        torch.testing.assert_close(found, whole[..., left : left + 24], rtol=0, atol=1e-6)
    torch.testing.assert_close(cut_bilinear(images, 24), normalised(images)[..., rounded : rounded + 24])


@pytest.mark.parametrize("size", [(96, 96), (16, 16), (60, 48)])
def test_the_filters_on_tensors_are_those_of_pil_up_to_its_8_bits(size):
    images = smooth(*size)
    (picture,) = pictures(images)
    short = (24, 24 * size[0] // size[1])
    bilinear = np.asarray(picture.resize(short, Image.Resampling.BILINEAR)) / 255
    top = round((short[1] - 24) / 2)
    assert np.abs(undone(cut_bilinear(images, 24))[0] - bilinear[top : top + 24]).max() < 1.5 / 255
    long = (24 * size[1] // size[0], 24)
    bicubic = np.asarray(picture.resize(long, Image.Resampling.BICUBIC)) / 255
    left = (24 - long[0]) // 2
    found = undone(padded_bicubic(images, 24))[0][:, left : left + long[0]]
    assert np.abs(found - bicubic).max() < 1.5 / 255


@pytest.mark.parametrize(
    ("size", "inside"),
    [
        ((48, 48), (slice(0, 24), slice(0, 24))),
        ((48, 24), (slice(0, 24), slice(6, 18))),
        ((16, 48), (slice(8, 16), slice(0, 24))),
        ((48, 30), (slice(0, 24), slice(4, 19))),  # 15 wide: 4 pixels on the left, 5 on the right
    ],
)
def test_padding_is_black_and_centred(size, inside):
    found = undone(padded_bicubic(torch.ones(1, 3, *size), 24))[0]
    mask = np.zeros((24, 24, 1))
    mask[inside] = 1
    np.testing.assert_allclose(found, np.broadcast_to(mask, found.shape), atol=1e-6)


def test_an_image_of_the_right_size_is_only_normalised():
    images = noise(24, 24)
    for prepared in (cut_bilinear(images, 24), padded_bicubic(images, 24)):
        np.testing.assert_allclose(undone(prepared), images.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        undone(cut_by_pil(images, 24, "floor")), (images * 255).round().permute(0, 2, 3, 1) / 255, atol=1e-6
    )
