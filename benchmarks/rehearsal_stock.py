"""Load a pipeline by diffusers alone, with a LoRA if one is given, and draw: no line of diffopd is read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from peft.tuners.lora import LoraLayer


def main() -> None:
    """Draw one picture and say how many layers the LoRA is on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--lora")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    index = json.loads((arguments.pipeline / "model_index.json").read_text(encoding="utf-8"))
    absent = {name: None for name, entry in index.items() if entry == [None, None]}
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        arguments.pipeline, torch_dtype=torch.bfloat16, local_files_only=True, **absent
    ).to(device)
    note = "loaded"
    if arguments.lora:
        pipeline.load_lora_weights(arguments.lora)
        layers = [module for module in pipeline.transformer.modules() if isinstance(module, LoraLayer)]
        scales = sorted({scale for layer in layers for scale in layer.scaling.values()})
        if not layers:
            sys.exit("load_lora_weights changed no layer")
        note = f"LoRA on {len(layers)} layers, scale {', '.join(map(str, scales))}"
    drawn: Any = pipeline(
        'a sign that says "OPEN"',
        height=arguments.size,
        width=arguments.size,
        num_inference_steps=arguments.steps,
        guidance_scale=4.5,
        generator=torch.Generator().manual_seed(0),
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    drawn.images[0].save(arguments.output)
    if "diffopd" in sys.modules:
        sys.exit("diffopd was imported, so this says nothing about diffusers alone")
    print(f"note: {note}")


if __name__ == "__main__":
    main()
