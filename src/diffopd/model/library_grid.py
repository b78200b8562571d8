"""The sigma grid a stock pipeline would use, to compare ours with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from diffopd.flow import SigmaGrid

_SAME = 1e-5
_COMPARED = (2, 9)  # numbers of steps; two, as a rule may depend on them


def check_grid(shift: int | float | SigmaGrid, scheduler: Any, mu: Callable[[int], float], path: str) -> None:
    """Compare a rule for the grid with the scheduler of a pipeline that starts from evenly spread levels.

    Args:
        shift: The rule from the config.
        scheduler: The pipeline's.
        mu: What the pipeline shifts by at a number of steps, if its scheduler lets it.
        path: Names the pipeline, for the message.

    Raises:
        ValueError: If the two differ.
    """
    if not isinstance(shift, SigmaGrid):
        raise ValueError(
            f"model.shift={shift} is the shift of Stable Diffusion 3's grid, and {path} uses another; give a "
            "rule with a _target_, as in the model's config file"
        )
    for num_steps in _COMPARED:
        ours, theirs = shift.levels(num_steps), library_sigmas(scheduler, num_steps, mu(num_steps))
        if not torch.allclose(ours, theirs, rtol=0, atol=_SAME):
            raise ValueError(
                f"model.shift gives the sigmas {_shown(ours)} for {num_steps} steps, the scheduler of {path} "
                f"gives {_shown(theirs)}; set model.shift to what its scheduler_config.json says: "
                f"{_settings(scheduler)}"
            )


def library_sigmas(scheduler: Any, num_steps: int, mu: float) -> Tensor:
    """The scheduler's levels for evenly spread ones; it is left as it is."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(sigmas=torch.linspace(1, 1 / num_steps, num_steps).tolist(), mu=mu)
    return own.sigmas.cpu()


def resolution_mu(scheduler: Any, tokens: int) -> float:
    """FLUX.1's ``mu``, which Qwen-Image and Z-Image share, by the scheduler's own settings."""
    config = scheduler.config
    return calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )


def _settings(scheduler: Any) -> str:
    names = (
        "shift",
        "use_dynamic_shifting",
        "base_image_seq_len",
        "max_image_seq_len",
        "base_shift",
        "max_shift",
        "shift_terminal",
        "time_shift_type",
    )
    return ", ".join(f"{name}={scheduler.config.get(name)}" for name in names)


def _shown(levels: Tensor) -> str:
    return "[" + ", ".join(f"{level:.4f}" for level in levels.tolist()) + "]"
