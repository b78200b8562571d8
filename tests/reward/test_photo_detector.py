"""GenEval on photographs: a tiny random Mask2Former, and outputs planted by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from diffopd.evaluation import BenchmarkTask
from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.drawn.composition import CompositionReward
from diffopd.reward.geneval.clip_colours import ClipColours
from diffopd.reward.geneval.coco import COCO_NAMES
from diffopd.reward.geneval.photo_detector import PhotoDetector, detector_input

CONF = Path(__file__).parents[2] / "conf"


def save_tiny(folder, num_labels=80):
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32)
    layers = {"encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        **sizes,
        **layers,
        num_attention_heads=2,
        num_queries=10,
        num_labels=num_labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("detector"))


def detector(folder, colours=lambda crops, names: ["red"] * len(crops), **changes):
    settings = {
        "path": str(folder),
        "revision": None,
        "short_side": 64,
        "long_side": 96,
        "max_instances": 100,
        "batch_size": 2,
        "device": "cpu",
        "dtype": "fp32",
    }
    return PhotoDetector(**{**settings, **changes}, colours=colours)


class Planted:
    """A model that sees the given objects in every image: (label, probability, box in masks of 16 by 16)."""

    device = torch.device("cpu")

    def __init__(self, *objects):
        self.objects = objects
        self.inputs = []

    def __call__(self, pixel_values):
        self.inputs.append(pixel_values)
        probabilities = torch.zeros(len(self.objects), 81)
        masks = torch.full((len(self.objects), 16, 16), -50.0)
        for query, (label, probability, (left, top, right, bottom)) in enumerate(self.objects):
            probabilities[query, label], probabilities[query, -1] = probability, 1 - probability
            masks[query, top:bottom, left:right] = 50.0
        number = len(pixel_values)
        return SimpleNamespace(
            class_queries_logits=probabilities.log().expand(number, -1, -1),
            masks_queries_logits=masks.expand(number, -1, -1, -1),
        )


def planted(folder, *objects, **settings):
    result = detector(folder, **settings)
    result._model = Planted(*objects)
    return result


def test_the_library_finds_the_same_before_thresholds(folder):
    """Labels, order of confidence and masks agree where the library's fixed mask size is the image's."""
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    images = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(2))
    ours = detector(folder, short_side=384, long_side=384, max_instances=10)
    pixels, frame = detector_input(images, 384, 384)
    with torch.no_grad():
        output = model(pixel_values=pixels)
    processor = Mask2FormerImageProcessorPil()
    (theirs,) = processor.post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[(384, 384)], return_binary_maps=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffopd.reward.geneval.photo_detector.MIN_CONFIDENCE", 0.0)
        (found,) = ours.instances(images)
    expected = sorted(
        (info["label_id"], info["score"], int(mask.sum()))
        for info, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True)
    )
    seen = sorted((x.label, x.confidence, int(x.mask.sum())) for x in found)
    assert len(expected) > 3
    assert [(label, pytest.approx(score, abs=2e-6), area) for label, score, area in seen] == expected
    assert frame.padded == (384, 384)


def test_planted_objects_get_names_boxes_and_colours(folder):
    seen = []

    def colours(crops, names):
        seen.append(([crop.size for crop in crops], list(names)))
        return ["blue", "green"]

    one = planted(folder, (15, 0.95, (2, 2, 6, 8)), (62, 0.5, (8, 4, 14, 10)), colours=colours)
    ((cat, tv),) = one(torch.rand(1, 3, 64, 64))
    assert (cat.name, cat.box, cat.colour) == ("cat", (8.0, 8.0, 24.0, 32.0), "blue")
    assert cat.confidence == pytest.approx(0.95, rel=1e-3)  # the rim of the enlarged mask is less certain
    assert (tv.name, tv.box, tv.colour) == ("tv", (32.0, 16.0, 56.0, 40.0), "green")
    assert seen == [([(16, 24), (24, 24)], ["cat", "tv"])]


def test_crops_show_the_object_on_grey(folder):
    seen = []
    one = planted(folder, (15, 0.9, (2, 2, 6, 8)), colours=lambda crops, names: seen.extend(crops) or ["red"])
    one._model.objects = ((15, 0.9, (2, 2, 6, 8)),)
    image = torch.zeros(1, 3, 64, 64)
    image[:, 1] = 1.0
    one(image)
    assert seen[0].getpixel((8, 12)) == (0, 255, 0)


def test_batches_and_images_without_objects(folder):
    calls = []
    one = planted(folder, (0, 0.2, (0, 0, 4, 4)), colours=lambda crops, names: calls.append(len(crops)) or [])
    assert one(torch.rand(5, 3, 32, 32)) == [[]] * 5
    assert [len(pixels) for pixels in one._model.inputs] == [2, 2, 1]
    assert calls == []


def test_the_input_is_resized_normalised_and_padded():
    image = torch.full((1, 3, 20, 40), 0.5)
    pixels, frame = detector_input(image, 30, 50)
    assert frame == type(frame)(size=(20, 40), resized=(25, 50), padded=(32, 64))
    expected = (torch.tensor([0.5] * 3) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(pixels[0, :, 12, 25], expected)
    assert pixels[..., 25:, :].abs().max() == pixels[..., 50:].abs().max() == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_tiny_model_answers_in_every_precision(folder, dtype):
    found = detector(folder, dtype=dtype)(torch.rand(3, 3, 48, 64))
    assert len(found) == 3


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^reward\.detector\.path=.*has 7 classes, GenEval needs COCO's 80"):
        detector(save_tiny(tmp_path, num_labels=7))(torch.rand(1, 3, 32, 32))


def test_official_metadata_is_scored_end_to_end(folder, tmp_path):
    """Lines in GenEval's own format, of all six tags, through file, prompts, reward and table."""
    cat, dog = ({"class": name, "count": 1} for name in ("cat", "dog"))
    lines = [
        {"tag": "single_object", "include": [cat]},
        {"tag": "two_object", "include": [cat, dog]},
        {
            "tag": "counting",
            "include": [{"class": "cat", "count": 1}],
            "exclude": [{"class": "cat", "count": 2}],
        },
        {"tag": "colors", "include": [{**cat, "color": "red"}]},
        {"tag": "position", "include": [cat, {**dog, "position": ["right of", 0]}]},
        {"tag": "color_attr", "include": [{**cat, "color": "red"}, {**dog, "color": "blue"}]},
    ]
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text(
        "".join(json.dumps({**line, "prompt": f"photo {i}"}) + "\n" for i, line in enumerate(lines))
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        place = "metric.reward.detector"
        paths = [f"{place}.path={folder}", f"{place}.colours.path={folder}", f"{place}.short_side=64"]
        metric = instantiate(compose(overrides=["+metric=geneval", *paths])["metric"])
    reward = metric.reward
    assert isinstance(reward, CompositionReward)
    # A cat to the left of a dog, both red; the cat is not certain enough to be counted.
    reward.detector._model = Planted((15, 0.8, (1, 6, 5, 10)), (16, 0.95, (10, 6, 14, 10)))
    reward.detector.colours = lambda crops, names: ["red"] * len(crops)
    task = BenchmarkTask(path=str(file), num_prompts=None, images_per_prompt=1, metric=metric)
    prompts = task.prompts("geneval")
    metric.update(torch.rand(6, 3, 64, 64), prompts)
    official = {tag: float(metric.compute()[f"{tag}/official"]) for tag in metric.tags}
    assert official == {
        "single_object": 1, "two_object": 1, "counting": 0, "colors": 1, "position": 1, "color_attr": 0,
    }  # fmt: skip
    assert float(metric.compute()["official"]) == pytest.approx(4 / 6)
    scale = reward(torch.rand(6, 3, 64, 64), prompts).scale
    assert "not by the mmdet build of the official score" in scale


def test_every_class_has_a_name_in_the_detections(folder):
    one = planted(folder, *((label, 0.9, (0, 0, 4, 4)) for label in range(80)))
    assert {d.name for d in one(torch.rand(1, 3, 64, 64))[0]} == set(COCO_NAMES)


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        (
            {"class": "computer mose", "count": 1},
            "no image can have class 'computer mose': .* mean 'computer mouse'",
        ),
        (
            {"class": "bench", "count": 1, "color": "grean"},
            "no image can have color 'grean': .* mean 'green'",
        ),
    ],
)
def test_lines_of_what_is_never_found_are_errors_by_file_and_line(folder, tmp_path, clause, message):
    colours = ClipColours(path=str(folder), revision=None, batch_size=1, device="cpu", dtype="fp32")
    reward = CompositionReward(detector=detector(folder, colours), score="strict")
    good = {"prompt": "x", "tag": "colors", "include": [{"class": "tv remote", "count": 1, "color": "white"}]}
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in (good, {**good, "include": [clause]})))
    metric = RewardMean(reward=reward, parts=[], tags=[])
    task = BenchmarkTask(path=str(file), num_prompts=None, images_per_prompt=1, metric=metric)
    with pytest.raises(ValueError, match=rf"benchmark\.tasks\.composition\.path={file}, line 2: {message}"):
        task.prompts("composition")
