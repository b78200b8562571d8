"""Released weights of a learned scorer, once and for all, as a folder of safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen2VLConfig,
)

import diffopd
from diffopd.files.atomic import atomic_save_safetensors, atomic_write_json, new_folder
from diffopd.files.fingerprint import sha256_of
from diffopd.reward.learned.clip import check_tokenizer
from diffopd.reward.learned.hpsv3 import REWARD_TOKEN, Hpsv3Network, hpsv3_tensors
from diffopd.reward.learned.imagereward import ImageRewardNetwork
from diffopd.reward.learned.linear_head import head_tensors
from diffopd.reward.learned.lpips import lpips_tensors, published_linear
from diffopd.reward.learned.med_layout import from_med
from diffopd.reward.learned.open_clip_layout import from_open_clip
from diffopd.reward.learned.released import read_released
from diffopd.reward.learned.weights import WEIGHTS, local_folder, tokenizer_folder

TOKENIZERS: Mapping[str, str] = {
    "clipscore": "openai/clip-vit-large-patch14",
    "hpsv2": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "hpsv3": "Qwen/Qwen2-VL-7B-Instruct",
    "imagereward": "google-bert/bert-base-uncased",
    "pickscore": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}
"""Scorers that read prompts -> where their tokenizer is published."""

REWARDS = (*("clipscore", "hpsv2", "hpsv3", "imagereward", "laion_aesthetic", "lpips_nearness", "pickscore"),)
"""Scorers whose weights can be converted."""

HPSV3_WORDS = "model.language_model.embed_tokens.weight"

RECORD = "conversion.json"
"""What was converted, beside the weights."""


def convert(reward: str, source: Path, target: Path, *, tokenizer: str | None) -> Path:
    """Write the folder that ``reward.path`` then names: config, safetensors, tokenizer, and a record.

    Args:
        reward: One of :data:`REWARDS`.
        source: The released file. For pickscore and clipscore it is transformers' ``pytorch_model.bin``, with
            ``config.json`` beside it.
        target: The folder to make, whole or not at all.
        tokenizer: Folder or hub id of what tokenizes prompts; None for laion_aesthetic and lpips_nearness,
            which read none.

    Returns:
        ``target``.

    Raises:
        ValueError: If the file is not what it should be, the tokenizer does not fit, or ``target`` exists.
    """
    if reward not in REWARDS:
        raise ValueError(f"reward={reward} must be one of {', '.join(REWARDS)}")
    if reward in TOKENIZERS and tokenizer is None:
        raise ValueError(
            f"reward={reward} reads prompts, so tokenizer=... is needed: a folder or hub id with its "
            f"tokenizer, published as {TOKENIZERS[reward]}"
        )
    if reward not in TOKENIZERS and tokenizer is not None:
        raise ValueError(f"tokenizer={tokenizer}: reward={reward} reads no prompts; leave it out")
    if target.exists():
        raise ValueError(f"to={target} exists already; remove it, or choose another folder")
    released = read_released(source, setting="from")
    try:
        config, tensors = _converted(reward, released, source, tokenizer)
    except ValueError as error:
        raise ValueError(f"from={source} is not the released file of {reward}: {error}") from error
    words = None if tokenizer is None else _tokenizer(reward, tokenizer, config)
    with new_folder(target) as folder:
        atomic_save_safetensors(folder / WEIGHTS, tensors)
        record = {"reward": reward, "file": source.name, "sha256": sha256_of(source)}
        atomic_write_json(folder / RECORD, {**record, "diffopd": diffopd.__version__})
        if config is not None:
            config.save_pretrained(folder)
        if words is not None:
            words.save_pretrained(folder)
        if reward == "hpsv3":  # how pictures become patches
            AutoImageProcessor.from_pretrained(_base(tokenizer), backend="pil").save_pretrained(folder)
    return target


def _converted(
    reward: str, released: Mapping[str, Tensor], source: Path, tokenizer: str | None
) -> tuple[PreTrainedConfig | None, dict[str, Tensor]]:
    """The config, None for a head alone, and all tensors of what is to be written."""
    if reward == "laion_aesthetic":
        return None, head_tensors(released)
    if reward == "lpips_nearness":
        return None, lpips_tensors(released, published_linear())
    if reward == "hpsv3":
        config, tensors = _of_qwen(_base(tokenizer)), hpsv3_tensors(dict(released))
        config.text_config.vocab_size = len(tensors[HPSV3_WORDS])
        _check_complete(Hpsv3Network, config, tensors)
    elif reward == "imagereward":
        config, tensors = from_med(released)
        _check_complete(ImageRewardNetwork, config, tensors)
    elif reward == "hpsv2":
        config, tensors = from_open_clip(released)
        _check_complete(CLIPModel, config, tensors)
    else:
        config, tensors = _of_transformers(released, source)
        _check_complete(CLIPModel, config, tensors)
    return config, tensors


def _base(path: str | None) -> Path:
    """The folder of HPSv3's base model, of which all but the weights is needed.

    Raises:
        ValueError: If it is not a folder, or lacks a file.
    """
    folder = None if path is None else local_folder(path, "tokenizer")
    wanted = ("config.json", "preprocessor_config.json")
    if folder is None or not all((folder / name).is_file() for name in wanted):
        raise ValueError(
            f"tokenizer={path} must be a local folder with {', '.join(wanted)} and the tokenizer of "
            f"{TOKENIZERS['hpsv3']}; its weights are not needed"
        )
    return folder


def _of_qwen(folder: Path) -> Any:
    return Qwen2VLConfig.from_pretrained(folder, local_files_only=True)


def _of_transformers(released: Mapping[str, Tensor], source: Path) -> tuple[CLIPConfig, dict[str, Tensor]]:
    """A CLIP that transformers itself saved, in the days of pickles."""
    if not (source.parent / "config.json").is_file():
        raise ValueError(f"config.json must lie beside it, in {source.parent.absolute()}")
    tensors = {name: tensor for name, tensor in released.items() if not name.endswith("position_ids")}
    return CLIPConfig.from_pretrained(source.parent, local_files_only=True), tensors


def _check_complete(kind: type[PreTrainedModel], config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor of the network is there, in its shape, and no other."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in kind(config).state_dict().items()}
    absent, unknown = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if absent or unknown:
        raise ValueError(
            f"{len(absent)} tensors are missing ({', '.join(absent[:3]) or 'none'}), {len(unknown)} are "
            f"unknown ({', '.join(unknown[:3]) or 'none'})"
        )
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensors[name].shape)}")


def _tokenizer(reward: str, path: str, config: Any) -> PreTrainedTokenizerBase:
    """The tokenizer, as the scorer needs it."""
    if reward == "hpsv3":
        return _qwen_tokenizer(path, config.text_config.vocab_size)
    kind = BertTokenizer if reward == "imagereward" else CLIPTokenizer
    folder = tokenizer_folder(path, kind=kind, setting="tokenizer")
    if reward != "imagereward":
        words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        check_tokenizer(config, words, f"tokenizer={path}")
        return words
    bert = BertTokenizer.from_pretrained(folder, local_files_only=True)
    bert.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)  # BLIP's two, at the end of the vocabulary
    known = config.text_config.vocab_size
    if not bert.vocab_size + 2 == len(bert) == known:  # a loader adds the special tokens that a file lacks
        raise ValueError(
            f"tokenizer={path} has {bert.vocab_size} tokens, BERT's for this text encoder has {known - 2}; "
            f"give the one published as {TOKENIZERS[reward]}"
        )
    return bert


def _qwen_tokenizer(path: str, num_tokens: int) -> PreTrainedTokenizerBase:
    """Qwen2-VL's tokenizer with the token at which HPSv3 scores."""
    folder = tokenizer_folder(path, kind=Qwen2Tokenizer, setting="tokenizer")
    words = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    words.add_tokens([REWARD_TOKEN], special_tokens=True)
    if len(words) != num_tokens:
        raise ValueError(
            f"tokenizer={path} has {len(words)} tokens with {REWARD_TOKEN}, the released network "
            f"{num_tokens}; give that of {TOKENIZERS['hpsv3']}"
        )
    return words
