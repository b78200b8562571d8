import pytest
import torch
from torch.nn.functional import interpolate

from support.tiny_scorers import clip_tokenizer, save_open_clip


def padded(texts):
    """As open_clip tokenizes: zeros after the end."""
    rows = [clip_tokenizer()(text, truncation=True, max_length=12)["input_ids"] for text in texts]
    return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


def test_scores_are_the_cosines_of_the_released_architecture(build_scorer, samples, tmp_path):
    images, prompts = samples
    original = save_open_clip(tmp_path / "hps.pt")  # the weights of the converted folder, by their seed
    resized = interpolate(images, (24, 17), mode="bicubic", antialias=True)  # 40 by 29, longer side 24
    square = torch.zeros(6, 3, 24, 24)
    square[..., 3:20] = resized
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    cosines = original.cosines((square - mean) / std, padded(prompts.texts))
    assert cosines.std() > 0.01
    for scale in ("training", "table"):
        found = build_scorer("hpsv2", scale=scale)(images, prompts)
        assert found.value.tolist() == pytest.approx(cosines.tolist(), abs=1e-5)
        assert found.scale == "HPSv2.1: cosine"


def test_html_entities_are_resolved_as_open_clip_does(build_scorer, samples):
    images, prompts = samples
    reward = build_scorer("hpsv2")

    def score(text):
        return reward(images[:1], type(prompts)((text,), ("t",), ({},), (0,), (0,))).value.item()

    assert score("a &amp;amp; b ") == score("a & b")
    assert score("a & b") != score("a b")


def test_texts_are_repaired_as_open_clip_does(build_scorer, samples):
    images, prompts = samples
    reward = build_scorer("hpsv2")

    def score(text):
        return reward(images[:1], type(prompts)((text,), ("t",), ({},), (0,), (0,))).value.item()

    assert score("a \u201csale\u201d sign") == score('a "sale" sign')
    assert score("it\u2019s a dog") == score("it's a dog")
    assert score("a caf\u00c3\u00a9") == score("a caf\u00e9")  # UTF-8 once read as Latin-1
    assert score("a\n dog") == score("a dog")
