"""Networks in half precision while they are trained whole; weights stay in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from diffopd.model.matrix_attention import MatrixAttention


@contextmanager
def half_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Matrix products in ``dtype``, as ``torch.autocast`` does them; fp32 changes nothing.

    A processor with instructions for bf16 (AMX, AVX512-BF16) gains from it, another loses. On a CPU attention
    takes the way that is fast there.
    """
    if dtype == torch.float32:
        yield
        return
    attention = MatrixAttention() if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype), attention:
        yield
