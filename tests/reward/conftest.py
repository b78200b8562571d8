from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from diffopd.types import Prompts
from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.request import caption, metadata
from diffopd.world.split import random_request
from support.tiny_scorers import scorer_settings

Drawings = Callable[..., tuple[Tensor, Prompts]]


@pytest.fixture(scope="session")
def drawings() -> Drawings:
    """``drawings(forms, number, seed)``: clean drawings of held-out requests, and their prompts."""

    def make(
        forms: tuple[str, ...], number: int, seed: int, task: str = "composition"
    ) -> tuple[Tensor, Prompts]:
        images, texts, lines = [], [], []
        for i in range(number):
            rng = np.random.default_rng((seed, i))
            request = random_request(forms[i % len(forms)], rng, held_out=True)
            images.append(draw(random_scene(request, rng, allow_held_out=True)))
            texts.append(caption(request))
            lines.append(metadata(request))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        rows = tuple(range(number))
        return pixels, Prompts(tuple(texts), (task,) * number, tuple(lines), rows, rows)

    return make


@pytest.fixture(scope="session")
def scorer_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scorers")


@pytest.fixture(scope="session")
def scorers(scorer_root) -> dict[str, dict[str, str | None]]:
    """Settings of every learned scorer on a small random model of its architecture."""
    return scorer_settings(scorer_root)


@pytest.fixture
def build_scorer(scorers, conf_dir):
    """``build_scorer(name, **changes)`` from its config file."""

    def build(name: str, **changes):
        config = OmegaConf.load(conf_dir / "reward" / f"{name}.yaml")
        return instantiate(config, **{"device": "cpu", **scorers[name], **changes})

    return build


@pytest.fixture
def build_scorer_of(conf_dir):
    """``build_scorer_of(name, **changes)`` from its config with its defaults, for what needs no weights."""

    def build(name: str, **changes):
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            config = compose(overrides=[f"+reward={name}"]).reward
        return instantiate(config, **changes)

    return build


@pytest.fixture
def build_judge(conf_dir):
    """``build_judge(name, **changes)`` from its config; labels take the place of its own, all of them."""

    def build(name: str, **changes):
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            config = OmegaConf.to_container(compose(overrides=[f"+reward={name}"]).reward)
        assert isinstance(config, dict)
        return instantiate({**config, **changes})

    return build


@pytest.fixture(scope="session")
def samples() -> tuple[Tensor, Prompts]:
    """Six images that are not square, and prompts of different lengths, one of them twice."""
    images = torch.rand(6, 3, 40, 29, generator=torch.Generator().manual_seed(0))
    texts = ("cat", "a dog on a mat", "b", "cat", "far too long for twelve tokens", "x, y; z")
    rows = tuple(range(6))
    return images, Prompts(texts, ("t",) * 6, ({},) * 6, rows, rows)
