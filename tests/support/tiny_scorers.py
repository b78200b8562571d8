"""Folders of small random scorers, as diffopd.convert and the hub have them, for any test that needs one."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from torch import nn
from transformers import BertTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

from diffopd.reward.learned.conversion import convert
from support.released_layouts import OpenClip, ReleasedImageReward, randomised, released_head

CHARACTERS = string.ascii_lowercase + string.digits + '"&;,.'
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 12


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), START, END]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def bert_tokenizer() -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)})


def save_clip(folder: Path, seed: int = 0) -> CLIPModel:
    """A CLIP as OpenAI's on the hub: 24 pixels, quick GELU, embeddings of 16 numbers."""
    tokenizer = clip_tokenizer()
    sizes = {"intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=16,
        vision_config={"hidden_size": 32, "image_size": 24, "patch_size": 8, **sizes},
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 20,
            "max_position_embeddings": LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **sizes,
        },
    )
    model = randomised(CLIPModel(config), seed)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_open_clip(file: Path, seed: int = 1) -> OpenClip:
    """HPSv2.1's file: an open_clip state dict, wrapped, in half precision."""
    model = randomised(OpenClip(vocabulary=len(clip_tokenizer()), length=LENGTH), seed)
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, file)
    return model


def save_imagereward(file: Path, seed: int = 2) -> ReleasedImageReward:
    """ImageReward's file: a plain state dict."""
    model = randomised(ReleasedImageReward(vocabulary=len(bert_tokenizer()) + 2), seed)
    torch.save(model.state_dict(), file)
    return model


def save_head(file: Path, seed: int = 3) -> nn.Sequential:
    """The aesthetic predictor's file."""
    wrapped = nn.Module()
    wrapped.layers = randomised(released_head(16), seed)
    torch.save(wrapped.state_dict(), file)
    return wrapped.layers


def scorer_settings(root: Path) -> dict[str, dict[str, str | None]]:
    """Make a folder of every learned scorer; name -> settings of ``conf/reward/<name>.yaml`` that name it."""
    save_clip(root / "clip")
    bert_tokenizer().save_pretrained(root / "bert")
    save_open_clip(root / "hps.pt")
    save_imagereward(root / "imagereward.pt")
    save_head(root / "head.pth")
    convert("hpsv2", root / "hps.pt", root / "hpsv2", tokenizer=str(root / "clip"))
    convert("imagereward", root / "imagereward.pt", root / "imagereward", tokenizer=str(root / "bert"))
    convert("laion_aesthetic", root / "head.pth", root / "head", tokenizer=None)
    clip = {"path": str(root / "clip"), "tokenizer_path": None}
    return {
        "pickscore": clip,
        "clipscore": clip,
        "hpsv2": {"path": str(root / "hpsv2")},
        "imagereward": {"path": str(root / "imagereward")},
        "laion_aesthetic": {"path": str(root / "head"), "clip_path": str(root / "clip")},
    }
