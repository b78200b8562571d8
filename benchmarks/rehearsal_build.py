"""Write a pipeline with random weights, three random teachers and a few prompts to disk.

Weights are drawn and written piece by piece, so the largest model takes no more memory than the smallest.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from peft import LoraConfig
from random_teachers import TASKS
from rehearsal_prompts import write_prompts
from rehearsal_sizes import LORA_ALPHA, LORA_MODULES, LORA_RANK, NAMES, Size, lora_shapes, shapes_on_disk
from rehearsal_tokenizers import END, write_clip, write_t5
from transformers import CLIPTokenizer, T5Tokenizer

SHARD_BYTES = 5_000_000_000
"""Most bytes of tensors in one file, as the libraries' own default was when the release was made."""
CHUNK = 1 << 24
"""Numbers that are drawn at a time."""
_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32"}


def write_safetensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, generator: torch.Generator
) -> int:
    """Write a safetensors file of random values without ever holding more than one piece of it.

    The library's own writer takes whole files in memory. The format is a length, a JSON header, the bytes.

    Args:
        path: The file.
        shapes: Tensor -> its shape.
        dtype: ``torch.bfloat16`` or ``torch.float32``.
        generator: Draws the values.

    Returns:
        Bytes of its tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            total = math.prod(shape)
            for start in range(0, total, CHUNK):
                values = _values(name, shape, min(CHUNK, total - start), generator)
                file.write(values.to(dtype).view(torch.uint8).numpy().data)
    return end


def _values(name: str, shape: Sequence[int], count: int, generator: torch.Generator) -> torch.Tensor:
    """Values that neither grow nor vanish from layer to layer: biases are 0, scales of norms 1."""
    if len(shape) > 1:
        std = max(0.02, 1 / math.sqrt(math.prod(shape[1:])))
        return torch.empty(count).normal_(std=std, generator=generator)
    return torch.zeros(count) if name.endswith("bias") else torch.ones(count)


def write_weights(
    folder: Path,
    stem: str,
    shapes: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> None:
    """Write one file, or several with an index, as diffusers and transformers name them.

    Args:
        folder: Of the part.
        stem: ``model`` or ``diffusion_pytorch_model``.
        shapes: Tensor -> its shape.
        dtype: Of the values.
        generator: Draws them.
    """
    shards: list[dict[str, Sequence[int]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        size += math.prod(shape) * dtype.itemsize
        if size > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = math.prod(shape) * dtype.itemsize
        shards[-1][name] = shape
    files = [f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    files = files if len(shards) > 1 else [f"{stem}.safetensors"]
    written = sum(
        write_safetensors(folder / file, shard, dtype, generator)
        for file, shard in zip(files, shards, strict=True)
    )
    if len(shards) > 1:
        place = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": written}, "weight_map": place}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def write_pipeline(folder: Path, size: Size, *, with_t5: bool) -> dict[str, Any]:
    """Write a pipeline in bf16; the parts without weights are returned.

    Args:
        folder: To make.
        size: Of its parts.
        with_t5: Also the third text encoder and its tokenizer.
    """
    folder.mkdir(parents=True)
    write_clip(folder / "tokenizer", padding=END)
    write_clip(folder / "tokenizer_2", padding="!")
    if with_t5:
        write_t5(folder / "tokenizer_3")
    parts = size.without_weights(with_t5=with_t5)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = StableDiffusion3Pipeline(
        scheduler=scheduler,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        tokenizer_3=T5Tokenizer.from_pretrained(folder / "tokenizer_3") if with_t5 else None,
        **{"text_encoder_3": None, **parts},
    )
    pipeline.save_config(folder)
    scheduler.save_pretrained(folder / "scheduler")
    generator = torch.Generator().manual_seed(0)
    for name, part in parts.items():
        if name.startswith("text_encoder"):
            part.config.architectures, part.config.dtype = [type(part).__name__], torch.bfloat16
            part.config.save_pretrained(folder / name)
            stem = "model"
        else:
            part.save_config(folder / name)
            stem = "diffusion_pytorch_model"
        print(f"{name}: writing", flush=True)
        write_weights(folder / name, stem, shapes_on_disk(part), torch.bfloat16, generator)
    return parts


def write_teachers(folder: Path, transformer: Any) -> None:
    """Write a PEFT folder for each task, without metadata, as published teachers are."""
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(LORA_MODULES))
    for seed, task in enumerate(TASKS):
        config.save_pretrained(str(folder / task))
        generator = torch.Generator().manual_seed(seed)
        file = folder / task / "adapter_model.safetensors"
        write_safetensors(file, lora_shapes(transformer), torch.float32, generator)


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``pipeline``, ``teachers`` and ``prompts`` into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--with-t5", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args(argv)
    size = Size.of(arguments.model)
    parts = write_pipeline(arguments.folder / "pipeline", size, with_t5=arguments.with_t5)
    write_teachers(arguments.folder / "teachers", parts["transformer"])
    write_prompts(arguments.folder / "prompts")


if __name__ == "__main__":
    main()
