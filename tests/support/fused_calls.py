"""How many blocks were fused."""

from __future__ import annotations

import pytest

from diffopd.model.fused_block import FusedBlock


def count_fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every block that is fused from now on."""
    counted: list[int] = []
    apply = FusedBlock.apply
    monkeypatch.setattr(FusedBlock, "apply", lambda *args: (counted.append(0), apply(*args))[1])
    return counted
