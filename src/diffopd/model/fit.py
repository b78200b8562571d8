"""Do a model's settings fit its pipeline? Asked once, when it has been loaded."""

from __future__ import annotations

from typing import Any


def check_image_size(image_size: int, path: str, *, cell: int, largest: int | None) -> None:
    """Refuse a picture size that the pipeline cannot make.

    Args:
        image_size: Height and width in pixels.
        path: Names the pipeline, for the message.
        cell: Side of the smallest picture in pixels; others are multiples of it.
        largest: Side of the largest, or None.

    Raises:
        ValueError: If ``image_size`` does not fit.
    """
    limit = "" if largest is None else f" up to {largest}"
    fits = image_size >= cell and image_size % cell == 0
    if not fits or (largest is not None and image_size > largest):
        raise ValueError(
            f"model.image_size={image_size} does not fit {path}; allowed are multiples of {cell} "
            f"pixels{limit}"
        )


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


def choose_attention_backend(transformer: Any, name: str) -> None:
    """Have the backbone's blocks use one of diffusers' attention backends.

    Raises:
        ValueError: If the blocks leave no choice, or this one is unknown or cannot run here.
    """
    processors = [getattr(module, "processor", None) for module in transformer.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"model.attention_backend={name}, but {type(transformer).__name__} calls torch's attention "
            "itself, so there is nothing to choose; set model.attention_backend=null"
        )
    try:
        transformer.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"model.attention_backend={name} cannot be used here: {error}; null is the default"
        ) from error
