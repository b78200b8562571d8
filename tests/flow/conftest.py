from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def one_step(golden_dir: Path) -> dict[str, Tensor]:
    """Reference transitions, one of the ten steps per batch row."""
    with np.load(golden_dir / "one_step_transitions.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
