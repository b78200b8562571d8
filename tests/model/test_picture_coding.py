"""A few pictures at a time give what all at once do."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate

from diffopd.check import ConfigError, check_config
from diffopd.evaluation import generate
from diffopd.types import Prompts
from support.family_models import composed, load
from support.tiny_families import make_family

NAMES = ["sd3_5_medium", "flux1_dev", "flux2_klein", "z_image", "qwen_image"]
ROUNDING = 1e-5  # of convolutions over other batches


@pytest.fixture(scope="module", params=NAMES)
def family(request, tmp_path_factory):
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


def counted(model, monkeypatch):
    """Sizes of the batches that the autoencoder gets."""
    sizes = []
    for name in ("encode", "decode"):
        original = getattr(model.vae, name)

        def call(rows, *args, original=original, name=name, **kwargs):
            sizes.append((name, len(rows)))
            return original(rows, *args, **kwargs)

        monkeypatch.setattr(model.vae, name, call)
    return sizes


def test_pictures_in_parts_are_those_of_one_batch(family, monkeypatch):
    whole, parts = (load(family, f"model.decode_batch_size={size}") for size in ("null", 2))
    latents = torch.randn(5, *whole.latent_shape, generator=torch.Generator().manual_seed(0))
    sizes = counted(parts, monkeypatch)
    with torch.no_grad():
        images = parts.decode(latents)
        assert sizes == [("decode", 2), ("decode", 2), ("decode", 1)]
        torch.testing.assert_close(images, whole.decode(latents), rtol=0, atol=ROUNDING)
        alone = torch.cat([whole.decode(part) for part in latents.split(2)])
        assert torch.equal(images, alone)
        sizes.clear()
        for seed in (None, 7):  # drawn for all images at once: the parts do not change the draws
            draws = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
            ours, theirs = (m.encode_images(images, d) for m, d in zip((parts, whole), draws, strict=True))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
        assert sizes == 2 * [("encode", 2), ("encode", 2), ("encode", 1)]


def test_models_of_full_size_decode_a_few_at_once(family):
    assert composed(family).model.decode_batch_size == 4


def test_an_evaluation_decodes_in_parts_whatever_its_batch(family, monkeypatch):
    if family.name != "z_image":
        pytest.skip("one family is enough: nothing here is a family's own")
    model = load(family, "model.decode_batch_size=2")
    sizes = counted(model, monkeypatch)
    rows = range(5)
    prompts = Prompts(
        texts=tuple(f"a cat {n}" for n in rows),
        tasks=("x",) * 5,
        metadata=({},) * 5,
        indices=tuple(rows),
        groups=tuple(rows),
    )
    sampler = instantiate(composed(family).sampler)
    images = generate(
        model, prompts, sampler=sampler, guidance_scale=1.0, adapters=None, seed=0, batch_size=64
    )
    assert len(images) == 5
    assert sizes == [("decode", 2), ("decode", 2), ("decode", 1)]


def test_at_least_one_picture_at_once(family):
    with pytest.raises(ConfigError, match=r"model\.decode_batch_size=0 must be a whole number from 1 to"):
        check_config(composed(family, "model.decode_batch_size=0"), "sample")
