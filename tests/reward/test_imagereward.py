import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from support.tiny_scorers import bert_tokenizer, save_imagereward


def pixels(image):
    """8 bits, PIL's bicubic on the shorter side, torchvision's cut: half of 9 rounds to the even 4."""
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    small = np.asarray(picture.resize((24, 33), Image.Resampling.BICUBIC))[4:28] / 255
    scaled = (small - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    return torch.from_numpy(scaled).float().permute(2, 0, 1)


def test_scores_are_those_of_the_released_architecture(build_scorer, samples, tmp_path):
    images, prompts = samples
    original = save_imagereward(tmp_path / "imagereward.pt")  # the converted folder's weights, by their seed
    tokens = bert_tokenizer()(
        list(prompts.texts), padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    expected = original(
        torch.stack([pixels(image) for image in images]), tokens["input_ids"], tokens["attention_mask"]
    )
    assert expected.std() > 0.01
    for scale in ("training", "table"):
        found = build_scorer("imagereward", scale=scale)(images, prompts)
        torch.testing.assert_close(found.value, expected, rtol=1e-4, atol=1e-3)


def test_text_and_image_both_count(build_scorer, samples):
    images, prompts = samples
    reward = build_scorer("imagereward")
    first = reward(images, prompts).value
    other_texts = reward(images, prompts.select([1, 2, 3, 4, 5, 0])).value
    other_images = reward(images.flip(0), prompts).value
    assert ((first - other_texts).abs() > 1e-4).sum() >= 5
    assert ((first - other_images).abs() > 1e-4).all()


def test_the_head_stays_in_full_precision(build_scorer):
    network = build_scorer("imagereward", dtype="bf16")._frozen.network
    assert network.vision_model.embeddings.patch_embedding.weight.dtype == torch.bfloat16
    assert network.head.layers[0].weight.dtype == torch.float32


def test_another_vocabulary_is_refused(build_scorer, samples, scorers, tmp_path):
    shutil.copytree(scorers["imagereward"]["path"], tmp_path / "other")
    bert_tokenizer().save_pretrained(tmp_path / "other")  # without BLIP's two tokens
    reward = build_scorer("imagereward", path=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"knows 89 tokens, the tokenizer in .* has 87; BERT's uncased"):
        reward(*samples)
