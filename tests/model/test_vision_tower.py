"""Z-Image's prompts with pictures: Qwen3-VL with the pipeline's own language weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLModel

from diffopd.model import ZImageModel
from diffopd.model.vision_tower import VisionTower
from diffopd.types import Prompts
from support.family_models import load
from support.pictures import picture_file
from support.tiny_vision import MERGE, SPECIAL, blind, seeing_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return seeing_family(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def model(family):
    return load(family)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return [picture_file(folder, 0), picture_file(folder, 1, 64, 96)]


def prompts(*rows) -> Prompts:
    texts, references = zip(*rows, strict=True)
    numbers = tuple(range(len(rows)))
    told = Prompts(texts, ("task",) * len(rows), ({},) * len(rows), numbers, numbers)
    return told.with_references(references)


@torch.no_grad()
def by_hand(family, text, pictures):
    """Transformers' own model and processors; language weights overwritten by the pipeline's text encoder."""
    folder = family.settings[-1].partition("=")[2]
    whole = Qwen3VLModel.from_pretrained(folder).eval()
    own = {name: value.clone() for name, value in whole.language_model.state_dict().items()}
    whole.language_model.load_state_dict(family.stock().text_encoder.state_dict())
    assert any(not torch.equal(own[name], value) for name, value in whole.language_model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    seen = processor(images=[Image.open(picture.path) for picture in pictures], return_tensors="pt")
    start, end, pad, _ = SPECIAL
    tokens = [pad * int(grid.prod() // MERGE**2) for grid in seen["image_grid_thw"]]
    shown = "".join(f"{start}{places}{end}" for places in tokens)
    written = f"<|im_start|>user\n{shown}{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(written, return_tensors="pt").input_ids
    kinds = (ids == tokenizer.convert_tokens_to_ids(pad)).int()
    out = whole(input_ids=ids, mm_token_type_ids=kinds, output_hidden_states=True, **seen)
    return out.hidden_states[-2][0]


def test_the_encoding_is_that_of_qwen3_vl_with_the_pipelines_language_weights(family, model, pictures):
    first, wide = pictures
    told = prompts(("a red cat", (first,)), ("a", ()), ("a red cat", (wide, first)))
    given = model.condition(told)
    assert given.lengths is not None
    for row in (0, 2):
        expected = by_hand(family, told.texts[row], told.references[row])
        assert given.lengths[row] == len(expected)
        torch.testing.assert_close(given.embeds[row, : len(expected)], expected, rtol=1e-5, atol=1e-5)
    plain = model.encode(["a"])
    assert given.lengths[1] == plain.embeds.shape[1]
    torch.testing.assert_close(given.embeds[1, : given.lengths[1]], plain.embeds[0])
    other = model.condition(prompts(("a red cat", (replace(first, path=wide.path, digest=wide.digest),))))
    assert (other.embeds[0] - given.embeds[0, : given.lengths[0]]).abs().max() > 1e-2  # it looks


def test_language_weights_are_in_memory_once(model, pictures):
    model.condition(prompts(("a", pictures[:1])))
    theirs = {id(parameter) for parameter in model.text_encoder.parameters()}
    assert theirs == {id(parameter) for parameter in model._tower._model.language_model.parameters()}


def test_rows_of_both_kinds_share_a_forward(model, pictures):
    latent = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    given = model.condition(prompts(("a", ()), ("a", pictures[:1]), ("a red cat", ())))
    sigma = torch.tensor([0.9, 0.5, 0.2])
    with torch.no_grad():
        together = model.velocity(latent, sigma, given)
        for row in range(3):
            alone = model.velocity(latent[[row]], sigma[[row]], given.select([row]))
            torch.testing.assert_close(together[[row]], alone, rtol=0, atol=1e-5)


def test_the_prompt_cache_goes_by_text_and_pictures(family, pictures, tmp_path, monkeypatch):
    first, wide = pictures
    rows = [("a", (first,)), ("a", (wide,)), ("a", ()), ("b", (first,))]
    plain = load(family).condition(prompts(*rows))
    filled = load(family, f"model.prompt_cache={tmp_path / 'cache'}")
    given = filled.condition(prompts(*rows))
    again = load(family, f"model.prompt_cache={tmp_path / 'cache'}")

    def unasked(*given):
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(VisionTower, "encode", unasked)
    monkeypatch.setattr(ZImageModel, "encode_prompts", unasked)
    kept = again.condition(prompts(*rows))
    for found in (given, kept):
        assert found.lengths == plain.lengths
        torch.testing.assert_close(found.embeds, plain.embeds)
    assert len(again.prompt_cache) == len(rows)


def test_what_cannot_be_seen_is_refused(family, model, tmp_path):
    with pytest.raises(ValueError, match=r"model\.vision_tower=null, and pictures are to be seen"):
        load(blind(family)).open_pictures()
    odd = picture_file(tmp_path, 5, 64, 80)
    with pytest.raises(ValueError, match=r"64 x 80 pixels; .* multiples of 32 \(context\.multiple\)"):
        model.condition(prompts(("a", (odd,))))
    large = picture_file(tmp_path, 6, 1056, 1024)
    with pytest.raises(ValueError, match=r"1056 tokens of pictures do not fit into a prompt of 1024"):
        model.condition(prompts(("a", (large,))))
    with pytest.raises(ValueError, match="there is no such folder"):
        load(family, f"model.vision_tower={tmp_path / 'absent'}").open_pictures()
