"""A tiny Z-Image-Turbo, and a tiny Qwen3-VL whose language model has the shape of its text encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from support.tiny_families import FAMILIES, Family, _qwen3, _qwen_tokenizer, _wake, _z_image

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH, MERGE = 16, 2
LLAVA_PICTURE = "<image>"
LLAVA_TEMPLATE = (
    "{% for m in messages %}USER: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def seeing_family(folder: Path) -> Family:
    """The pipeline with its vision-language model."""
    tokenizer = _qwen_tokenizer(*SPECIAL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pipeline = _z_image(3.0, tokenizer)
        for component in (pipeline.transformer, pipeline.vae):
            _wake(component)
        pipeline.save_pretrained(folder / "pipeline")
        save_qwen3_vl(folder / "qwen3_vl", pipeline.text_encoder.config)
    settings = (*FAMILIES["z_image_turbo"][1], f"model.vision_tower={folder / 'qwen3_vl'}")
    return Family("z_image_turbo", folder / "pipeline", settings)


def judge_model(folder: Path, kind: str) -> Path:
    """A vision-language model alone: ``qwen3_vl``, ``qwen2_5_vl`` or ``llava``."""
    size = len(_qwen_tokenizer(*SPECIAL))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "qwen3_vl":
            save_qwen3_vl(folder, _qwen3(num_layers=2, vocab_size=size))
        elif kind == "qwen2_5_vl":
            _save_qwen2_5_vl(folder, size)
        else:
            _save_llava(folder)
    return folder


def save_qwen3_vl(folder: Path, text_encoder) -> None:
    """As transformers saves it, with language weights of its own in the shape of a text encoder."""
    text = {
        name: getattr(text_encoder, name)
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *("num_attention_heads", "num_key_value_heads", "head_dim", "initializer_range"),
        )
    }
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 5000.0,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.5,
        },
        **_token_numbers(),
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    _save_processor(folder, PATCH)


def _save_qwen2_5_vl(folder: Path, vocab_size: int) -> None:
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]},
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_token_numbers())
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    _save_processor(folder, 14)


def _save_llava(folder: Path) -> None:
    """With settings of a processor, no types of tokens, and another form of a conversation."""
    tokenizer = _qwen_tokenizer(LLAVA_PICTURE)
    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "initializer_factor": 20.0}
    told = {"model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = LlavaConfig(
        vision_config=small | seen,
        text_config=small | told | {"initializer_range": 0.5},
        image_token_index=tokenizer.convert_tokens_to_ids(LLAVA_PICTURE),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    _save_tokenizer(folder, tokenizer, LLAVA_TEMPLATE)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    image = {"image_processor_type": "CLIPImageProcessor", **size}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    own = {"patch_size": 16, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    (folder / "processor_config.json").write_text(json.dumps(own))


def _save_tokenizer(folder: Path, tokenizer, template: str) -> None:
    tokenizer.chat_template, before = template, tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = before  # it is one for all that ask


def _token_numbers() -> dict[str, int]:
    tokenizer = _qwen_tokenizer(*SPECIAL)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, SPECIAL, strict=True)}


def _save_processor(folder: Path, patch_size: int) -> None:
    """The tokenizer with its chat template, and how pictures become patches."""
    _save_tokenizer(folder, _qwen_tokenizer(*SPECIAL), TEMPLATE)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessorFast",
                "size": {"shortest_edge": 1024, "longest_edge": 16384},
                "patch_size": patch_size,
                "temporal_patch_size": 2,
                "merge_size": MERGE,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        )
    )


def blind(family: Family) -> Family:
    """The same without a vision tower."""
    return replace(family, settings=(*family.settings[:-1], "model.vision_tower=null"))
