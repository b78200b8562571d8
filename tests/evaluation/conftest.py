"""A model whose images are known by hand, and a benchmark around it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from diffopd.evaluation import Benchmark, BenchmarkTask
from diffopd.metric.reward_mean import RewardMean
from diffopd.sampler import FlowSampler
from diffopd.types import Conditioning, Scores


class KnownModel:
    """A constant velocity per adapter, 0 for the empty prompt: the ODE ends at noise minus velocity."""

    latent_shape = (3, 4, 4)

    def __init__(self):
        self.biases = {None: 0.0, "bright": -0.5, "dark": 0.5}
        self.calls = []

    def encode(self, texts):
        lengths = torch.tensor([[float(len(text))] for text in texts])
        return Conditioning(lengths[:, None], lengths)

    def condition(self, prompts):
        return self.encode(prompts.texts)

    def velocity(self, latent, sigma, conditioning, adapters=None):
        assert not torch.is_grad_enabled()
        self.calls.append((latent.clone(), conditioning, adapters))
        names = [adapters] * len(latent) if adapters is None or isinstance(adapters, str) else adapters
        bias = torch.tensor([self.biases[name] for name in names]) * (conditioning.pooled[:, 0] > 0)
        return torch.zeros_like(latent) + bias[:, None, None, None]

    def decode(self, latents):
        return latents.clamp(0, 1)


def brightness(images, prompts):
    mean = images.mean((1, 2, 3))
    return Scores(mean, {"dark": 1 - mean}, "[0, 1], luminance")


@pytest.fixture
def model():
    return KnownModel()


@pytest.fixture
def sampler():
    return FlowSampler(num_steps=4, noise_level=0.0, shift=1.0, guidance_scale=1.0)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "words.txt").write_text("one\ntwo\nthree\n")
    lines = [f'{{"tag": "{tag}", "prompt": "{tag} {i}"}}\n' for i in range(2) for tag in ("a", "b")]
    (tmp_path / "tags.jsonl").write_text("".join(lines))
    return SimpleNamespace(words=str(tmp_path / "words.txt"), tags=str(tmp_path / "tags.jsonl"))


@pytest.fixture
def benchmark(files, sampler):
    def metric(tags):
        return RewardMean(reward=brightness, parts=["dark"], tags=tags)

    def task(path, number, each, tags):
        return BenchmarkTask(path=path, num_prompts=number, images_per_prompt=each, metric=metric(tags))

    return Benchmark(
        name="known",
        seed=3,
        sampler=sampler,
        tasks={"words": task(files.words, 2, 3, []), "tags": task(files.tags, None, 1, ["a", "b"])},
        held_out={"brightness": metric([])},
    )
