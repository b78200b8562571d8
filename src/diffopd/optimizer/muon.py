"""Muon for the matrices of a transformer's blocks, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import nn


@final
class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that step together.

    Muon orthogonalises the update of a weight matrix, which makes training from nothing take far fewer steps.
    It does not suit embeddings, output layers or vectors; those go to AdamW. Learning-rate schedulers see all
    parameter groups.

    References:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024;
        ``torch.optim.Muon``.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        adamw_lr: float,
        adamw_betas: Sequence[float],
        matrices_in: str,
    ) -> None:
        """Sort the parameters.

        Args:
            params: ``module.named_parameters()``.
            lr: Muon's learning rate, scaled so that an update has the size of one of AdamW's.
            momentum: Muon's, in [0, 1).
            weight_decay: Of both.
            adamw_lr: AdamW's learning rate.
            adamw_betas: Decay of AdamW's two running means.
            matrices_in: Matrices whose name holds this go to Muon.

        Raises:
            ValueError: If no matrix does.
        """
        given = list(params)
        if not all(isinstance(entry, tuple) for entry in given):
            raise ValueError(
                "it sorts a network's parameters by their names, which training from nothing gives and an "
                "adapter has not; choose optimizer=adamw"
            )
        named = [(name, parameter) for name, parameter in given if parameter.requires_grad]
        chosen = {name for name, parameter in named if parameter.ndim == 2 and matrices_in in name}
        if not chosen:
            raise ValueError(
                f"optimizer.matrices_in={matrices_in}: no weight matrix has a name that holds it"
            )
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                [parameter for name, parameter in named if name in chosen],
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [parameter for name, parameter in named if name not in chosen],
                lr=adamw_lr,
                betas=(adamw_betas[0], adamw_betas[1]),
                weight_decay=weight_decay,
            ),
        )
        super().__init__([parameter for _, parameter in named], {"lr": lr})
        self._share_with_parts()

    def _share_with_parts(self) -> None:
        """Show the parts' own groups and state, so that schedulers and checkpoints reach them."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step both; the closure is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Both states, under ``muon`` and ``adamw``; ``param_groups`` as Lightning expects them."""
        muon, adamw = (part.state_dict() for part in self._parts)
        return {
            "state": {"muon": muon["state"], "adamw": adamw["state"]},
            "param_groups": [*muon["param_groups"], *adamw["param_groups"]],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        first = 0
        for part, name in zip(self._parts, ("muon", "adamw"), strict=True):
            groups = state_dict["param_groups"][first : first + len(part.param_groups)]
            part.load_state_dict({"state": state_dict["state"][name], "param_groups": groups})
            first += len(part.param_groups)
        self._share_with_parts()
