"""Distances of pictures: by hand, and by small random networks of DINO's and LPIPS's architectures."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.functional.image import lpips as published
from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from diffopd.check import ConfigError
from diffopd.check.prompts import check_prompts
from diffopd.evaluation.captioned import captioned_prompts
from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.learned.conversion import convert
from diffopd.reward.learned.dino import MEAN, STD, DinoDistance, prepared
from diffopd.reward.learned.lpips import BLOCKS, Lpips, LpipsDistance, published_linear
from diffopd.reward.nearness import ConcordanceDistance, NearnessReward
from diffopd.types import Prompts
from support.released_layouts import randomised

HOW = {"revision": None, "batch_size": 2, "dtype": "fp32", "device": "cpu"}


@pytest.fixture
def prompts(tmp_path):
    """Three captioned pictures, black, grey and white, as a benchmark's prompts."""
    lines = []
    for number, tone in enumerate((0, 128, 255)):
        Image.new("RGB", (20, 20), (tone,) * 3).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"tone {tone}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    rows = captioned_prompts(str(tmp_path), "nearness", setting="benchmark.path")
    entries, pictures = zip(*rows, strict=True)
    return Prompts(
        tuple(entry.text for entry in entries),
        ("nearness",) * 3,
        tuple(entry.metadata for entry in entries),
        (0, 1, 2),
        (0, 1, 2),
        pictures,
    )


def test_concordance_by_hand(prompts):
    distance = ConcordanceDistance(side=2)
    drawn = torch.full((3, 4, 4), 0.8)
    drawn[0, :2, :2] = 0.0  # one of twelve averaged values: variance .12, mean .6 in red
    faded = drawn.clone()
    faded[0, :2, :2] = 0.4
    moved = drawn.flip(2)
    half = drawn.clone()
    half[0] = 0.6  # flat, with the same mean of each channel
    images = torch.stack([drawn, faded, moved, half, torch.full((3, 4, 4), 0.8)])
    red = 0.8**2 * 3 / 16
    expected = torch.tensor(
        [
            0.0,
            (0.4**2 / 4) / (red + red / 4 + 0.1**2),
            (2 * 0.8**2 / 4) / (2 * red),
            1.0,  # a flat picture of the same means knows nothing
            (0.8**2 / 4) / (red + 0.2**2),  # the flat ground: no nearer than a flat picture of the same means
        ]
    )
    torch.testing.assert_close(distance(images, drawn.expand(5, -1, -1, -1)), expected)
    assert expected[4] == pytest.approx(1.0)


def test_a_reward_compares_each_image_with_its_prompt_s_picture(prompts):
    reward = NearnessReward(distance=ConcordanceDistance(side=4))
    images = torch.zeros(3, 3, 8, 8)
    scores = score_checked(reward, images, prompts, "reward")  # flat pictures: equal ones, then others
    torch.testing.assert_close(scores.parts["distance"], torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(scores.value, 1 - scores.parts["distance"])


def test_a_prompt_without_a_picture_is_an_error(prompts):
    alone = Prompts(("a cat",), ("t",), ({},), (0,), (0,))
    reward = NearnessReward(distance=ConcordanceDistance(side=4))
    with pytest.raises(
        ValueError, match="'a cat' has no picture to compare with; take the prompts from a folder"
    ):
        reward.check_prompt(alone)
    reward.check_prompt(prompts.select([1]))
    with pytest.raises(RewardError, match="no picture"):
        score_checked(reward, torch.zeros(1, 3, 8, 8), alone, "reward")


def save_dino(folder, kind):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14))
    else:
        config = DINOv3ViTConfig(**sizes, image_size=32, patch_size=16, num_register_tokens=3)
        model = DINOv3ViTModel(config)
    randomised(model, 0).save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("kind", "side", "skipped"), [("dinov2", 28, 1), ("dinov3_vit", 32, 4)])
def test_dino_is_the_cosine_of_mean_patch_tokens(tmp_path, prompts, kind, side, skipped):
    model = save_dino(tmp_path / "dino", kind)
    distance = DinoDistance(path=str(tmp_path / "dino"), image_size=side, **HOW)
    generator = torch.Generator().manual_seed(0)
    images, pictures = torch.rand(2, 3, 3, side, side, generator=generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        tokens = [
            model(pixel_values=(batch - mean) / std).last_hidden_state[:, skipped:].mean(1)
            for batch in (images, pictures)
        ]
    a, b = tokens
    expected = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(distance(images, pictures), expected, rtol=1e-4, atol=1e-6)
    assert distance(images, images).abs().max() < 1e-6
    scores = NearnessReward(distance=distance)(torch.rand(3, 3, 20, 26, generator=generator), prompts)
    assert scores.value.isfinite().all()


def test_dino_sees_the_middle_of_a_picture_that_is_not_square():
    images = torch.zeros(1, 3, 8, 16)
    images[..., 4:12] = 1
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(prepared(images, 8)[0].mean((1, 2)), white)


def test_what_is_no_dino_and_a_size_that_is_no_multiple_are_errors(tmp_path):
    save_dino(tmp_path / "dino", "dinov2")
    with pytest.raises(
        ValueError, match=r"reward\.distance\.image_size=30 must be a multiple of .*, 14 pixels"
    ):
        DinoDistance(path=str(tmp_path / "dino"), image_size=30, **HOW)
    config = json.loads((tmp_path / "dino" / "config.json").read_text())
    (tmp_path / "dino" / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(ValueError, match=r"reward\.distance\.path=.* holds a clip; one of dinov2, "):
        DinoDistance(path=str(tmp_path / "dino"), image_size=28, **HOW)
    for kind, extra in ((DinoDistance, {"image_size": 28}), (LpipsDistance, {})):
        with pytest.raises(ValueError, match=r"reward\.distance\.path=\./absent: there is no such folder"):
            kind(path="./absent", **extra, **HOW)


class Features(nn.Sequential):
    """torchvision's ``vgg16().features`` of any widths."""

    def __init__(self, widths):
        layers, channels = [], 3
        for width, number in zip(widths, BLOCKS, strict=True):
            for _ in range(number):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)


@pytest.fixture
def vgg(monkeypatch):
    """torchmetrics's LPIPS over a small VGG16, as torchvision would have given it."""
    widths = (4, 5, 6, 7, 7)
    features = randomised(Features(widths), 1)
    monkeypatch.setattr(published, "_get_tv_model_features", lambda net, pretrained=False: features)
    network = published._LPIPS.__new__(published._LPIPS)
    nn.Module.__init__(network)
    network.spatial, network.resize, network.L = False, None, 5
    network.scaling_layer, network.net = published.ScalingLayer(), published.Vgg16(pretrained=False)
    layers = [published.NetLinLayer(width, use_dropout=True) for width in widths]
    network.lins = randomised(nn.ModuleList(layers), 2)
    with torch.no_grad():
        for layer in layers:
            layer.model[1].weight.abs_()
    return network.eval(), features, layers


def released(features, layers):
    """The two released files' tensors."""
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    return state, {f"lin{n}.model.1.weight": layer.model[1].weight.detach() for n, layer in enumerate(layers)}


def test_lpips_equals_torchmetrics(tmp_path, monkeypatch, vgg):
    network, features, layers = vgg
    state, linear = released(features, layers)
    monkeypatch.setattr("diffopd.reward.learned.conversion.published_linear", lambda: linear)
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    folder = convert("lpips_nearness", tmp_path / "vgg16.pth", tmp_path / "lpips", tokenizer=None)
    distance = LpipsDistance(path=str(folder), **HOW)
    images, pictures = torch.rand(2, 3, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    expected = network(images, pictures, normalize=True).flatten()
    assert expected.min() > 0
    torch.testing.assert_close(distance(images, pictures), expected, rtol=1e-4, atol=1e-7)
    assert distance(images, images).abs().max() == 0


def test_the_published_linear_layers_are_those_of_vgg16():
    assert [len(tensor[0]) for tensor in published_linear().values()] == [64, 128, 256, 512, 512]
    with torch.device("meta"):
        network = Lpips((64, 128, 256, 512, 512))
    names = {name for name in network.state_dict() if name.startswith("features.")}
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of torchvision's convolutions
    assert names == {f"features.{place}.{kind}" for place in places for kind in ("weight", "bias")}


def test_another_network_s_file_is_an_error(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="torchvision's vgg16 is needed; missing or of another shape"):
        convert("lpips_nearness", tmp_path / "alexnet.pth", tmp_path / "lpips", tokenizer=None)


def test_captions_come_with_their_pictures(prompts, tmp_path):
    assert prompts.texts == ("tone 0", "tone 128", "tone 255")
    assert [np.array(Image.open(picture.path))[0, 0, 0] for picture in prompts.targets] == [0, 128, 255]
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"benchmark\.path=.*1\.png is empty"):
        captioned_prompts(str(tmp_path), "nearness", setting="benchmark.path")


def test_the_check_before_a_run_shows_the_reward_each_picture(prompts):
    reward = NearnessReward(distance=ConcordanceDistance(side=4))
    entry = SimpleNamespace(texts=("tone 0",), metadata={}, where="0.png", picture=prompts.targets[0])
    tasks = {"pictures": SimpleNamespace(entries=[entry], setting="data")}
    check_prompts(tasks, {"path": "mine"}, reward)
    del entry.picture
    with pytest.raises(ConfigError, match=r"data\.path=mine, 0\.png: the prompt 'tone 0' has no picture"):
        check_prompts(tasks, {"path": "mine"}, reward)
