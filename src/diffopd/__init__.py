"""On-policy distillation of diffusion models, as a composable experiment framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffopd.api import (
        ConfigError,
        Evaluation,
        Model,
        Run,
        StoppedError,
        build_experiment,
        compose,
        evaluate_model,
        export_adapter,
        image_sheet,
        load_model,
        push_to_hub,
        sample_images,
        train_model,
    )

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "Evaluation",
    "Model",
    "Run",
    "StoppedError",
    "build_experiment",
    "compose",
    "evaluate_model",
    "export_adapter",
    "image_sheet",
    "load_model",
    "push_to_hub",
    "sample_images",
    "train_model",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for: every command imports this package first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("diffopd.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
