"""Prompts that the encoders do not read to their ends are found."""

import pytest

from diffopd.model import SD3Model
from diffopd.model.prompt_length import most_tokens, too_long
from support.tiny_pipelines import with_t5, without_t5


def numbers(tokenizer, texts):
    return [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids]


@pytest.mark.parametrize("build", [without_t5, with_t5])
def test_prompts_are_too_long_when_every_encoder_cuts_them(build, tmp_path):
    tiny = build(tmp_path)
    model = SD3Model(**tiny.settings)
    limit = most_tokens(model)
    clip = model.pipeline.tokenizer
    assert limit == max(clip.model_max_length, model.text_length)
    texts = ["a " * n for n in range(1, limit + 1)]
    expected = [text for text, n in zip(texts, numbers(clip, texts), strict=True) if n > limit]
    assert 0 < len(expected) < len(texts)
    assert too_long(model, texts) == expected
    assert too_long(model, ["a"]) == []
