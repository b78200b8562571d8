"""Every linear layer reads only its first inputs, so that a large model answers in seconds on a CPU.

Python imports a module ``sitecustomize`` from its path before anything else; a copy of this file under that
name, in a folder of its own, changes each process of a rehearsal and nothing else. Values then mean nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

INPUTS = 64


def install(folder: Path) -> Path:
    """Make a folder that changes every Python that has it in PYTHONPATH.

    Args:
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(__file__, folder / "sitecustomize.py")
    return folder


def _few_inputs(self: torch.nn.Linear, input: Tensor) -> Tensor:
    return F.linear(input[..., :INPUTS], self.weight[:, :INPUTS], self.bias)


if __name__ == "sitecustomize":
    torch.nn.Linear.forward = _few_inputs
