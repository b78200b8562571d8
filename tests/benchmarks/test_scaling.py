"""The scaling note's tables are the script's; its arithmetic is worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import scaling

ROOT = Path(__file__).parents[2]
FREE = scaling.Assumptions(inside=2.0, between=1.0, latency=0.25, gpus_per_node=2)


@pytest.mark.slow
def test_the_docs_have_the_tables_of_the_script():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for table in scaling.tables().split("\n\n"):
        assert table in text


@pytest.mark.slow
def test_an_adapter_of_rank_32_is_counted_by_hand():
    """24 blocks of width 1536: to_q, to_k, to_v and to_out on both sides; the last has no text output."""
    layers = 24 * 8 - 1
    counted = scaling.count()
    assert counted.adapter == layers * 32 * (1536 + 1536)
    assert counted.bytes_per_update == 4 * layers * 32 * 3072


@pytest.mark.parametrize(
    ("gpus", "seconds"),
    [
        (1, 0.0),
        # Half of the 8 bytes there and back at 2 bytes a second, and two hops.
        (2, 2 * (2.0 + 0.25)),
        # Then each GPU's 4 bytes, half of them there and back at 1 byte a second, and two hops.
        (4, 2 * (2.0 + 0.25) + 2 * (2.0 + 0.25)),
    ],
)
def test_a_ring_takes_as_long_as_by_hand(gpus, seconds):
    assert scaling.all_reduce_seconds(8, gpus, FREE) == pytest.approx(seconds)


def test_one_gpu_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(scaling, "count", lambda: scaling.Counted(2, 1, 3, 9))  # counting takes seconds
    assert scaling.efficiency(3, 1, scaling.Assumptions()) == 1.0
