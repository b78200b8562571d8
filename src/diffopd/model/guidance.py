"""Guided velocity: both sides of classifier-free guidance in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import guide
from diffopd.types import Conditioning, VelocityModel


def guided_velocity(
    model: VelocityModel,
    latent: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    conditioning: Conditioning,
    unconditional: Conditioning,
    scale: int | float | Sequence[int | float] | Float[Tensor, " batch"],
    adapters: str | Sequence[str] | None = None,
) -> Float[Tensor, " batch *latent"]:
    """Velocity under classifier-free guidance, gradients reaching both sides.

    The unconditional side has the empty prompt and the row's own references, as in the stock pipelines that
    edit. Rows whose scale is 1 have no unconditional side, so they cost one row of the forward instead of
    two. A model with a rule of its own for combining both sides names it ``guide``.

    Args:
        model: Answers the velocity of each row.
        latent: Noisy states.
        sigma: Their noise.
        conditioning: One row per state.
        unconditional: Encoding of the empty prompt: one row, or one per state.
        scale: Guidance scale for all rows or one per row; 1 = no guidance. A tensor must be on the CPU: its
            values decide the shape of the forward.
        adapters: One adapter for all rows, one per row, or none.

    Returns:
        Guided velocities in fp32.

    Raises:
        ValueError: If there is not one scale per row, scales lie on a device, or the model cannot be guided.
    """
    batch = latent.shape[0]
    scales = row_scales(scale, batch)
    guided = [row for row, value in enumerate(scales) if value != 1]
    if not guided:
        return model.velocity(latent, sigma, conditioning, adapters)
    if getattr(model, "step_distilled", False) and not _all_beside(model, adapters, guided):
        raise ValueError(
            f"a guidance scale of {scales[guided[0]]:g} is asked for, but model.step_distilled=true: this "
            "model is guidance-distilled; set guidance scales to 1, or load its base model with "
            "model.step_distilled=false"
        )

    every = len(guided) == batch
    index = torch.tensor(guided).to(latent.device, non_blocking=True)

    def pick(tensor: Tensor) -> Tensor:
        return tensor if every else tensor[index]

    empty = _one_row_per_state(unconditional, batch)
    if conditioning.references is not None:  # the prompt is taken away, not what the row is shown
        empty = replace(empty, references=conditioning.references)
    empty = empty if every else empty.select(guided)
    names = (
        adapters
        if adapters is None or isinstance(adapters, str)
        else [*adapters, *(adapters[r] for r in guided)]
    )
    both = model.velocity(
        torch.cat([latent, pick(latent)]),
        torch.cat([sigma, pick(sigma)]),
        Conditioning.concat([conditioning, empty]),
        names,
    )
    conditional, without_prompt = both.split([batch, len(guided)])
    guided_scales = [scales[row] for row in guided]
    strength: float | Tensor = guided_scales[0]
    if len(set(guided_scales)) > 1:
        strength = torch.tensor(guided_scales, dtype=both.dtype).to(latent.device, non_blocking=True)
    combine = getattr(model, "guide", guide)
    rows = combine(without_prompt, pick(conditional), strength)
    return rows if every else conditional.index_copy(0, index, rows)


def _all_beside(model: VelocityModel, adapters: str | Sequence[str] | None, rows: Sequence[int]) -> bool:
    """Whether whole transformers answer these rows, which may be guided beside a distilled backbone."""
    held = getattr(getattr(model, "backbones", None), "names", ())
    if adapters is None or isinstance(adapters, str):
        return adapters in held
    return all(adapters[row] in held for row in rows)


def row_scales(scale: int | float | Sequence[int | float] | Tensor, batch: int) -> list[float]:
    """One guidance scale per row, as numbers.

    Raises:
        ValueError: If there is not one per row, or they lie on a device.
    """
    if isinstance(scale, int | float):
        return [float(scale)] * batch
    if isinstance(scale, Tensor) and scale.device.type != "cpu":
        raise ValueError(
            f"guidance scales must be numbers or lie on the CPU, got a tensor on {scale.device}: reading it "
            "would wait for the device at every step"
        )
    scales = [float(value) for value in scale]
    if len(scales) != batch:
        raise ValueError(
            f"got {len(scales)} guidance scales for {batch} samples; give one number or one per sample"
        )
    return scales


def _one_row_per_state(conditioning: Conditioning, batch: int) -> Conditioning:
    if len(conditioning) == batch:
        return conditioning
    if len(conditioning) != 1:
        raise ValueError(
            f"unconditional must have one entry or one per sample ({batch}), it has {len(conditioning)}"
        )
    return conditioning.expand(batch)


def check_guidance(
    transformer: Any,
    path: str,
    *,
    guidance_scale: float,
    embedded_guidance: int | float | None,
    step_distilled: bool,
) -> None:
    """Check the guidance settings against the backbone's inputs and guidance distillation.

    Args:
        transformer: The backbone.
        path: Names the pipeline, for the message.
        guidance_scale: Of classifier-free guidance.
        embedded_guidance: Handed to a backbone that takes one; None for others.
        step_distilled: The model is guidance-distilled.

    Raises:
        ValueError: If they do not go together.
    """
    takes_guidance = bool(transformer.config.get("guidance_embeds", False))
    if takes_guidance and embedded_guidance is None:
        raise ValueError(
            f"model.embedded_guidance=null, but the backbone of {path} takes a guidance scale as an input; "
            "set model.embedded_guidance=3.5 or the like"
        )
    if not takes_guidance and embedded_guidance is not None:
        raise ValueError(
            f"model.embedded_guidance={embedded_guidance}, but the backbone of {path} takes no guidance "
            "scale as an input; set model.embedded_guidance=null"
        )
    if step_distilled and guidance_scale != 1:
        raise ValueError(
            f"model.guidance_scale={guidance_scale:g}, but model.step_distilled=true: a guidance-distilled "
            "model takes no other scale; set model.guidance_scale=1"
        )
