"""What ``+experiment=dopsd`` takes of memory and arithmetic on models of full size, from shapes alone.

The transformers are built without weights. torch counts their parameters, the bytes that a student's forward
keeps for its backward pass, and the operations of a forward; the rest is arithmetic, written out below::

    python benchmarks/self_teaching.py

Nothing is measured: no kernel runs, and what a GPU's allocator adds is not in it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel
from hydra.utils import instantiate
from random_teachers import composed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffopd.adapter import adapter_parameters, add_adapter
from diffopd.model.flux2_tokens import flux2_velocity

GB = 1e9
HALF, FULL = 2, 4
"""Bytes of a number in bf16 and in fp32."""
TEXT = 512
"""Text tokens of FLUX.2 [klein], padding included; a long prompt of Z-Image."""
KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
"""black-forest-labs/FLUX.2-klein-4B, transformer/config.json; Z-Image-Turbo's are the class's defaults."""
STEPS = 4
"""Of the rollouts in training."""


@dataclass(frozen=True)
class Counted:
    """One model at one picture size.

    Attributes:
        weights: Parameters of the transformer.
        lora: Parameters of one adapter, ``adapter=lora_large``.
        kept: Bytes kept for the backward pass of one sample.
        blocks: Blocks of the transformer, which gradient checkpointing recomputes one by one.
        inputs: Bytes of one block's input.
        student, teacher: Operations of one sample's forward.
    """

    weights: int
    lora: int
    kept: int
    blocks: int
    inputs: int
    student: int
    teacher: int

    def lines(self) -> list[tuple[str, float]]:
        """Quantities in GB, and in TFLOP."""
        adapters = FULL * self.lora
        return [
            ("weights, bf16", HALF * self.weights / GB),
            ("student, average and teacher, gradient, two means: 6 adapters in fp32", 6 * adapters / GB),
            ("kept for the backward pass, per sample", self.kept / GB),
            (
                "with gradient checkpointing: block inputs and one block",
                (self.blocks * self.inputs + self.kept / self.blocks) / GB,
            ),
            ("adapter=whole: the same six in fp32", 6 * FULL * self.weights / GB),
            ("adapter=whole adapter.dtype=bf16: in bf16", 6 * HALF * self.weights / GB),
            ("forward of the student, TFLOP", self.student / 1e12),
            ("forward of the teacher, TFLOP", self.teacher / 1e12),
            # Backward through frozen weights costs a forward: they get no gradient.
            ("update per picture, TFLOP", STEPS * (2 * self.student + self.teacher) / 1e12),
            ("the same with checkpointing, TFLOP", STEPS * (3 * self.student + self.teacher) / 1e12),
        ]


def klein(side: int) -> Counted:
    """FLUX.2 [klein] 4B; the teacher reads a picture of the same size as further tokens."""
    model = _with_adapter(_built(Flux2Transformer2DModel, KLEIN_4B), "flux2_klein")
    latent = torch.zeros(1, 128, side // 16, side // 16, dtype=torch.bfloat16, device="meta")
    embeds = torch.zeros(1, TEXT, 7680, dtype=torch.bfloat16, device="meta")

    def forward(references: int) -> Tensor:
        sigma = torch.ones(1, dtype=torch.bfloat16, device="meta")
        return flux2_velocity(model, latent, sigma, embeds, [latent] * references)

    tokens = (side // 16) ** 2 + TEXT
    return _counted(model, lambda: forward(0), lambda: forward(1), blocks=25, width=3072, tokens=tokens)


def z_image(side: int) -> Counted:
    """Z-Image-Turbo; the teacher's prompt is longer by the picture's tokens, up to 768 x 768 pixels by 32."""
    model = _with_adapter(_built(ZImageTransformer2DModel, {}), "z_image_turbo")
    latent = torch.zeros(16, 1, side // 8, side // 8, dtype=torch.bfloat16, device="meta")

    def forward(text: int) -> Tensor:
        told = torch.zeros(text, 2560, dtype=torch.bfloat16, device="meta")
        sigma = torch.ones(1, dtype=torch.bfloat16, device="meta")
        return model([latent], sigma, [told], return_dict=False)[0][0]

    tokens = (side // 16) ** 2 + TEXT
    seen = (768 // 32) ** 2
    return _counted(
        model, lambda: forward(TEXT), lambda: forward(TEXT + seen), blocks=34, width=3840, tokens=tokens
    )


def _built(kind: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        model = kind(**config)
    return nn.Module.to(model, torch.bfloat16).requires_grad_(False).eval()


def _with_adapter(model: Any, name: str) -> Any:
    settings = composed("train", ["+experiment=dopsd", f"model={name}", "data.path=.", "paths.run=."])
    with torch.device("meta"):
        add_adapter(model, "student", instantiate(settings.adapter), None)  # type: ignore[arg-type]
    for parameter in adapter_parameters(model, "student").values():
        parameter.requires_grad_(True)
    model.set_adapter("student")
    return model


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """As on a GPU: no matrix of all tokens by all tokens is kept, as a device without kernels would."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[0]


def _counted(model: Any, student: Any, teacher: Any, *, blocks: int, width: int, tokens: int) -> Counted:
    adapter = {id(parameter) for parameter in adapter_parameters(model, "student").values()}
    weights = sum(p.numel() for p in model.parameters() if id(p) not in adapter)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held.append(tensor)  # so that no other storage gets its number
            kept[storage._cdata] = storage.nbytes()
        return tensor

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = student()
    del output
    flops = []
    for forward in (student, teacher):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
        flops.append(counter.get_total_flops())
    return Counted(
        weights=weights,
        lora=sum(p.numel() for p in adapter_parameters(model, "student").values()),
        kept=sum(kept.values()),
        blocks=blocks,
        inputs=HALF * width * tokens,
        student=flops[0],
        teacher=flops[1],
    )


def main() -> None:
    """Print a table per model and size."""
    nn.functional.scaled_dot_product_attention = _attention
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="pixels")
    parser.add_argument("--models", nargs="+", default=["klein", "z_image"], choices=["klein", "z_image"])
    arguments = parser.parse_args()
    for name in arguments.models:
        for side in arguments.sides:
            counted = {"klein": klein, "z_image": z_image}[name](side)
            print(f"\n{name}, {side} pixels: {counted.weights:,} weights, {counted.lora:,} in an adapter")
            for what, value in counted.lines():
                print(f"  {value:8.2f}  {what}")


if __name__ == "__main__":
    main()
