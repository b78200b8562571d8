import pytest
import torch
from torch.nn.functional import interpolate
from transformers import CLIPModel


def test_scores_are_logits_over_100_of_bilinear_pixels(build_scorer, scorers, samples):
    images, prompts = samples
    reward = build_scorer("clipscore")
    model = CLIPModel.from_pretrained(scorers["clipscore"]["path"]).eval()
    small = interpolate(images, (33, 24), mode="bilinear", antialias=True)  # 40 by 29, shorter side 24
    cut = small[:, :, 4:28]  # half of 9 rounds to the even 4
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    # As released: texts padded to the model's length.
    tokens = reward.clip.tokenizer(
        list(prompts.texts), padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(pixel_values=(cut - mean) / std, **tokens).logits_per_image.diagonal()
    assert logits.std() > 0.5
    assert reward(images, prompts).value.tolist() == pytest.approx((logits / 100).tolist(), abs=1e-6)
    assert "cosine" in reward(images, prompts).scale
