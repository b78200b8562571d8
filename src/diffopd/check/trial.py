"""One step of the optimizers that a config names, on a parameter of four numbers, before any weight loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffopd.check.error import ConfigError


def check_optimizers(factories: Mapping[str, Callable[..., Any]], *, named: bool) -> None:
    """Make every optimizer, and take a step with it.

    What a class of torch's, or of a user's own, thinks of its settings is its own to say, and some say it
    only at the first step.

    Args:
        factories: Config path -> what makes an optimizer of parameters.
        named: Whether the phase gives parameters with their names.

    Raises:
        ConfigError: If that fails, does not end in finite numbers or changes nothing, or what is made is no
            optimizer.
    """
    import torch

    for setting, factory in factories.items():
        matrix, vector = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
        # A name that sorts a matrix to Muon where there are names, see diffopd.optimizer.muon.
        name = str(getattr(factory, "keywords", {}).get("matrices_in", "weight"))
        parameters = [(name, matrix), ("bias", vector)] if named else [matrix]
        try:
            optimizer = factory(parameters)
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(f"it makes a {type(optimizer).__name__}, and a torch optimizer is needed")
            for parameter in (matrix, vector):
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            if not matrix.isfinite().all():
                raise ValueError("a step with a gradient of 1 does not end in finite numbers")
            if not matrix.any():  # as an adapter's B it starts at 0, where any learning rate should tell
                raise ValueError(
                    "a step with a gradient of 1 changes nothing; is the learning rate too small?"
                )
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{setting} cannot be used with these settings: {text or type(error).__name__}"
            ) from error
