"""Colours named by a tiny random CLIP, against one question at a time through the model's own forward."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from diffopd.reward.geneval.clip_colours import COLOURS, ClipColours, on_grey
from diffopd.reward.learned.pixels import cut_pictures

CHARACTERS = "abcdefghijklmnopqrstuvwxyz-"
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    pieces = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), START, END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(pieces), "max_position_embeddings": 77},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn(parameter.shape)
    model.save_pretrained(place)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(place)
    return place


def colours(folder, **changes):
    settings = {"path": str(folder), "revision": None, "batch_size": 3, "device": "cpu", "dtype": "fp32"}
    return ClipColours(**{**settings, **changes})


def crops(number):
    generator = torch.Generator().manual_seed(1)
    sizes = [(9 + 4 * i, 30 - 3 * i) for i in range(number)]
    return [
        Image.fromarray(torch.randint(256, (h, w, 3), generator=generator, dtype=torch.uint8).numpy())
        for w, h in sizes
    ]


def open_clip_pixels(crop, side=16):
    """open_clip's transform, written out: resized, the middle cut out, half an odd margin rounded to even."""
    width, height = crop.size
    short = min(width, height)
    resized = crop.resize((int(side * width / short), int(side * height / short)), Image.Resampling.BICUBIC)
    left, top = round((resized.width - side) / 2), round((resized.height - side) / 2)
    pixels = np.asarray(resized.crop((left, top, left + side, top + side))) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return torch.tensor((pixels - mean) / std).permute(2, 0, 1)[None].float()


def likeness_one_by_one(folder, crop, name):
    """Cosine of a crop with each colour, from the whole model's embeddings of one text at a time."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    pixels = open_clip_pixels(crop)
    result = []
    for colour in COLOURS:
        embeds = []
        for asked in (f"{colour} {name}", f"{colour}-colored {name}", f"{colour} object"):
            tokens = tokenizer(f"a photo of a {asked}", return_tensors="pt").input_ids
            with torch.no_grad():
                output = model(input_ids=tokens, pixel_values=pixels)
            embeds.append(output.text_embeds[0] / output.text_embeds[0].norm())
        mean = sum(embeds) / 3
        image = output.image_embeds[0] / output.image_embeds[0].norm()
        result.append(float(mean @ image / mean.norm()))
    return result


def test_the_colour_is_the_nearest_of_the_averaged_templates(folder):
    pictures, names = crops(4), ["dog", "dog", "wine glass", "tv"]
    expected = []
    for picture, name in zip(pictures, names, strict=True):
        likeness = likeness_one_by_one(folder, picture, name)
        best, second = sorted(likeness)[-1:-3:-1]
        assert best - second > 1e-5  # else the comparison below would hang on rounding
        expected.append(COLOURS[likeness.index(best)])
    assert len(set(expected)) > 1
    assert colours(folder)(pictures, names) == expected
    assert colours(folder, batch_size=1)(pictures, names) == expected


def test_crops_are_cut_as_open_clip_cuts_them():
    for size in [(40, 16), (19, 16), (16, 21), (27, 18), (31, 90), (16, 16)]:
        crop = Image.effect_noise(size, 90).convert("RGB")
        torch.testing.assert_close(cut_pictures([crop], 16, "round"), open_clip_pixels(crop))
    # A margin of 3 pixels is cut 2 and 1, where transformers' processor cuts 1 and 2.
    odd = Image.effect_noise((19, 16), 90).convert("RGB")
    assert not torch.equal(cut_pictures([odd], 16, "round"), cut_pictures([odd], 16, "floor"))


def test_other_precision_and_copies_load_anew(folder):
    namer = colours(folder, dtype="bf16")
    first = namer(crops(2), ["dog", "cat"])
    assert copy.deepcopy(namer)(crops(2), ["dog", "cat"]) == first
    assert set(first) <= set(COLOURS)


def test_an_object_is_cut_out_on_grey():
    picture = Image.new("RGB", (6, 4), (255, 0, 0))
    mask = Image.new("L", (6, 4), 0)
    mask.paste(255, (2, 1, 4, 3))
    crop = on_grey(picture, mask, (1, 1, 5, 3))
    assert crop.size == (4, 2)
    assert [crop.getpixel((x, 0)) for x in range(4)] == [
        (0x99,) * 3, (255, 0, 0), (255, 0, 0), (0x99,) * 3,
    ]  # fmt: skip


def test_words_are_not_made_up(folder, tmp_path):
    """transformers makes up a tokenizer for a folder without one."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"reward\.detector\.colours\.path=.* holds no tokenizer\.json"):
        colours(tmp_path)(crops(1), ["dog"])


def test_pickled_weights_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = CLIPModel.from_pretrained(folder).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"reward\.detector\.colours\.path=.* scorers read no pickles"):
        colours(tmp_path)(crops(1), ["dog"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/absent/clip"}, r"reward\.detector\.colours\.path=/absent/clip: there is no such folder"),
        ({"dtype": "fp8"}, r"colours\.dtype=fp8 must be one of fp32, bf16, fp16"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        colours(folder, **changes)
