import pytest
import torch
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from support.tiny_scorers import save_clip, save_head


def test_scores_are_the_head_on_unit_embeddings(build_scorer, scorers, samples, tmp_path):
    images, prompts = samples
    head = save_head(tmp_path / "head.pth")  # the weights of the converted folder, by their seed
    model = CLIPModel.from_pretrained(scorers["laion_aesthetic"]["clip_path"]).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    pictures = [Image.fromarray((i * 255).round().byte().permute(1, 2, 0).numpy()) for i in images]
    with torch.no_grad():
        pooled = model.vision_model(**processor(images=pictures, return_tensors="pt")).pooler_output
        embedding = pooled @ model.visual_projection.weight.T
        expected = head(embedding / embedding.square().sum(1, keepdim=True).sqrt()).squeeze(1)
    assert expected.std() > 1e-3
    for scale in ("training", "table"):
        found = build_scorer("laion_aesthetic", scale=scale)(images, prompts)
        torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-4)


def test_prompts_play_no_part_and_no_text_encoder_is_kept(build_scorer, samples):
    images, prompts = samples
    reward = build_scorer("laion_aesthetic")
    assert torch.equal(
        reward(images, prompts).value, reward(images, prompts.select([5, 4, 3, 2, 1, 0])).value
    )
    assert not hasattr(reward.clip._frozen.network, "text_model")


def test_the_head_stays_in_full_precision(build_scorer):
    assert build_scorer("laion_aesthetic", dtype="bf16").head.network.layers[0].weight.dtype == torch.float32


def test_a_clip_of_another_width_is_refused(build_scorer, samples, scorers):
    reward = build_scorer("laion_aesthetic", clip_path=scorers["hpsv2"]["path"])
    with pytest.raises(ValueError, match=r"reward\.clip_path: its image embeddings have 24 .*takes 16"):
        reward(*samples)


def test_the_folder_of_another_scorer_is_refused(build_scorer, samples, tmp_path):
    save_clip(tmp_path / "clip")
    reward = build_scorer("laion_aesthetic", path=str(tmp_path / "clip"))
    with pytest.raises(ValueError, match=r"does not hold the aesthetic predictor's five layers"):
        reward(*samples)
