import pytest
import torch
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def expected(folder, tokenizer, images, texts):
    """The library's own processor and ``logits_per_image``, one pair at a time."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    found = []
    for image, text in zip(images, texts, strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        tokens = tokenizer(text, truncation=True, max_length=12, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found.append(model(pixel_values=pixels, input_ids=tokens).logits_per_image.item())
    return found


def test_scores_are_logits_and_over_26_in_training(build_scorer, scorers, samples):
    images, prompts = samples
    reward = build_scorer("pickscore", scale="table")
    logits = expected(scorers["pickscore"]["path"], reward.clip.tokenizer, images, prompts.texts)
    assert max(logits) - min(logits) > 1
    assert reward(images, prompts).value.tolist() == pytest.approx(logits, abs=1e-4)
    trained = build_scorer("pickscore", scale="training")(images, prompts)
    assert trained.value.tolist() == pytest.approx([logit / 26 for logit in logits], abs=1e-5)
    assert trained.scale == "PickScore / 26"
