"""Gradients through a backbone in fp16: scaled where they enter it, scaled back where adapters take them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils.weak import WeakIdKeyDictionary

_AIM = 4
"""Power of two that the largest gradient at the velocity is brought to; fp16 reaches from 2^-24 to 2^16."""


class HalfGradient:
    """Keeps small gradients of losses above what fp16 can tell from 0.

    A mean over the elements of a latent has gradients of 1e-6 and less; in fp16 they are 0 or nearly so. In
    each backward the gradient is multiplied by a power of two where it enters the backbone, chosen by the
    gradient itself, and the adapters' own, which are fp32, are divided by it. Nothing is kept between two
    backwards, so there is nothing to tune, to save or to resume, as with a scaler that learns its scale.

    Args:
        backbone: Its trainable parameters, fp32, get gradients through :meth:`scaled` velocities alone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._known = WeakIdKeyDictionary()
        self._scale: Tensor | None = None

    def scaled(self, velocity: Tensor) -> Tensor:
        """The same velocity, fp32, whose gradient is scaled on its way into the backbone."""
        if not velocity.requires_grad:
            return velocity
        for parameter in self._backbone.parameters():
            if parameter.requires_grad and parameter not in self._known:
                self._known[parameter] = parameter.register_hook(self._back)
        velocity.register_hook(self._forth)
        return velocity

    def _forth(self, gradient: Tensor) -> Tensor:
        if self._scale is None:  # one scale for all velocities of this backward
            largest = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
            self._scale = torch.exp2((_AIM - torch.log2(largest)).floor().clamp(-126, 126))
            Variable._execution_engine.queue_callback(self._forget)
        return gradient * self._scale

    def _back(self, gradient: Tensor) -> Tensor:
        return gradient if self._scale is None else gradient / self._scale

    def _forget(self) -> None:
        self._scale = None
