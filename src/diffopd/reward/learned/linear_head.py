"""The head of LAION's aesthetic predictor and of ImageReward: five linear layers, no activation.

Training had dropout between them, so a scorer's head is one affine map in five factors.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16, 1)
"""Outputs of the layers."""

PLACES = (0, 2, 4, 6, 7)
"""Where the linear layers stand in the released files, which count dropout."""


class LinearHead(nn.Module):
    """From an embedding to one number.

    Args:
        width: Of the embedding; kept as an attribute.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        inputs = (width, *WIDTHS[:-1])
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(inputs, WIDTHS, strict=True))

    def forward(self, embedding: Float[Tensor, " batch embedding"]) -> Float[Tensor, " batch"]:
        """One number per row."""
        for layer in self.layers:
            embedding = layer(embedding)
        return embedding.squeeze(1)


def head_tensors(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a :class:`LinearHead` from a released state dict, whose names are ``layers.<place>.<kind>``.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    names = {
        f"layers.{place}.{kind}": f"layers.{number}.{kind}"
        for number, place in enumerate(PLACES)
        for kind in ("weight", "bias")
    }
    if set(released) != set(names):
        absent, unknown = sorted(set(names) - set(released)), sorted(set(released) - set(names))
        raise ValueError(
            f"a head of five linear layers is needed; missing: {', '.join(absent) or 'none'}, unknown: "
            f"{', '.join(unknown[:5]) or 'none'}"
        )
    width = released["layers.0.weight"].shape[-1]
    wanted = {name: tensor.shape for name, tensor in LinearHead(width).state_dict().items()}
    found = {new: released[old] for old, new in names.items()}
    for name, tensor in found.items():
        if tensor.shape != wanted[name]:
            raise ValueError(
                f"{name} of the head must have shape {tuple(wanted[name])}, got {tuple(tensor.shape)}"
            )
    return found
