"""Which of diffusers' attention backends a backbone uses."""

from __future__ import annotations

from typing import Any


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
