"""What data parallel training sends and computes at full size, and how it should scale: a prediction.

Bytes and operations are counted on the architecture without weights; times follow from the assumptions::

    python benchmarks/scaling.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CONF = Path(__file__).parents[1] / "conf"
TOKENS = 205
"""Text tokens of a prompt: 77 of CLIP and 128 of T5."""
TRAINED_STEPS = 9
"""Of 10, as released."""
SIDES = 2
"""Forwards of a guided velocity."""
TEACHERS = 3


@dataclass(frozen=True)
class Assumptions:
    """What the machine is taken to be.

    Attributes:
        flops: Operations per second that a GPU sustains in bf16.
        gpus_per_node: GPUs that share a machine.
        inside: Bytes per second of a GPU to its neighbour in one machine, as a collective sees them.
        between: The same between machines.
        latency: Seconds of one hop of a collective.
        logged: Metrics of a round, each averaged by a transfer of its own.
        jitter: Standard deviation of a process's time for a round, as a share of it.
    """

    flops: float = 300e12
    gpus_per_node: int = 8
    inside: float = 200e9
    between: float = 25e9
    latency: float = 10e-6
    logged: int = 40
    jitter: float = 0.02


@dataclass(frozen=True)
class Counted:
    """What is counted at full size.

    Attributes:
        backbone: Parameters of the transformer.
        adapter: Parameters of one adapter.
        forward: Operations of one forward of one image.
        with_backward: Operations of one forward and its backward for an adapter.
    """

    backbone: int
    adapter: int
    forward: int
    with_backward: int

    @property
    def bytes_per_update(self) -> int:
        """What each process sends: the gradient in fp32."""
        return 4 * self.adapter

    @property
    def image(self) -> float:
        """Operations for one image of a round of distillation, student and teacher guided."""
        return TRAINED_STEPS * SIDES * (self.with_backward + self.forward)


class _Adapted(nn.Module):
    """A frozen linear layer with a low-rank part."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) + self.up(self.down(inputs))


@cache
def count() -> Counted:
    """Count on Stable Diffusion 3.5 Medium without weights, with the adapter of ``conf/adapter``."""
    with torch.device("meta"):
        config = OmegaConf.to_container(
            OmegaConf.load(CONF / "pipeline" / "sd3_5_medium_untrained.yaml").transformer
        )
        transformer = SD3Transformer2DModel(**config).requires_grad_(False)
        backbone = sum(p.numel() for p in transformer.parameters())
        targets = tuple(OmegaConf.load(CONF / "model" / "sd3_5_medium.yaml").lora_modules)
        rank = OmegaConf.load(CONF / "adapter" / "lora.yaml").rank
        adapted = []
        for name, module in list(transformer.named_modules()):
            if isinstance(module, nn.Linear) and any(name.endswith(f".{target}") for target in targets):
                parent, _, last = name.rpartition(".")
                adapted.append(_Adapted(module, rank))
                setattr(transformer.get_submodule(parent), last, adapted[-1])
        adapter = sum(p.numel() for a in adapted for p in (a.down.weight, a.up.weight))
        given = {
            "hidden_states": torch.zeros(1, 16, 64, 64),
            "encoder_hidden_states": torch.zeros(1, TOKENS, config["joint_attention_dim"]),
            "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
            "timestep": torch.zeros(1),
        }
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            transformer(**given)
        with FlopCounterMode(display=False) as both:
            transformer(**given).sample.sum().backward()
    return Counted(backbone, adapter, forward.get_total_flops(), both.get_total_flops())


def all_reduce_seconds(num_bytes: float, gpus: int, given: Assumptions) -> float:
    """Time of a ring within machines and a ring between them, each GPU with its own line outwards."""
    inside = min(gpus, given.gpus_per_node)
    nodes = max(1, gpus // given.gpus_per_node)
    seconds = 2 * (inside - 1) * (num_bytes / inside / given.inside + given.latency)
    return seconds + 2 * (nodes - 1) * (num_bytes / inside / nodes / given.between + given.latency)


def round_seconds(images: int, gpus: int, given: Assumptions) -> dict[str, float]:
    """Parts of a round's time with so many images on each GPU."""
    compute = images * count().image / given.flops
    return {
        "compute": compute,
        # About the expected largest of so many normal numbers.
        "waiting": compute * given.jitter * math.sqrt(2 * math.log(gpus)) if gpus > 1 else 0.0,
        "gradient": all_reduce_seconds(count().bytes_per_update, gpus, given),
        "metrics": given.logged * all_reduce_seconds(4, gpus, given),
    }


def efficiency(images: int, gpus: int, given: Assumptions) -> float:
    """Share of the time in which GPUs compute."""
    parts = round_seconds(images, gpus, given)
    return parts["compute"] / sum(parts.values())


def tables(given: Assumptions | None = None) -> str:
    """Everything as two tables for docs/scaling.md."""
    given, found = given or Assumptions(), count()
    lines = [
        "| Quantity | Counted |",
        "|---|---|",
        f"| parameters of the transformer | {found.backbone:,} |",
        f"| parameters of the adapter, rank 32 | {found.adapter:,} |",
        f"| bytes per update that each process sends | {found.bytes_per_update:,} |",
        f"| operations of a forward of one image | {found.forward / 1e12:.2f} TFLOP |",
        f"| forward and backward for the adapter | {found.with_backward / 1e12:.2f} TFLOP |",
        f"| one image of a round | {found.image / 1e12:.0f} TFLOP |",
        "",
        "| GPUs | Images on each | Images of a round | Compute | Waiting | Gradient | Metrics | Efficiency |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for images in (TEACHERS, 3 * TEACHERS):
        for gpus in (8, 64, 512):
            parts = round_seconds(images, gpus, given)
            times = " | ".join(f"{1000 * seconds:.1f} ms" for seconds in parts.values())
            share = f"{100 * efficiency(images, gpus, given):.1f} %"
            lines.append(f"| {gpus} | {images} | {images * gpus} | {times} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
