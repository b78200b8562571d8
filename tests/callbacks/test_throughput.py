import re
from pathlib import Path

import pytest
import torch

from diffopd.callbacks import Throughput
from diffopd.callbacks.throughput import count_samples, peak_rss_bytes
from diffopd.types import Prompts

STATUS = Path("/proc/self/status")


def test_logs_rate_and_memory(fit, tiny_phase):
    now = iter([10.0, 12.0, 20.0, 20.5])  # two rounds: 2 s and 0.5 s for 4 samples each
    trainer = fit(tiny_phase(num_batches=2), [Throughput(clock=lambda: next(now))], 2)
    metrics = trainer.callback_metrics
    assert metrics["train/time/seconds_per_round"].item() == pytest.approx(0.5)
    assert metrics["train/time/samples_per_second"].item() == pytest.approx(8.0)
    assert metrics["train/memory/peak_rss_gib"].item() == pytest.approx(peak_rss_bytes() / 2**30, rel=0.05)
    assert "train/memory/peak_cuda_gib" not in metrics


@pytest.mark.skipif(not STATUS.exists(), reason="the system keeps no /proc/self/status to compare with")
def test_peak_rss_is_in_bytes():
    kibibytes = int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
    assert peak_rss_bytes() == pytest.approx(kibibytes * 1024, rel=0.05)


PROMPTS = Prompts(("a", "b", "c"), ("t",) * 3, ({},) * 3, (0, 1, 2), (0, 1, 2))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(5, 2), 5),
        (PROMPTS, 3),
        ([torch.zeros(5, 2), torch.zeros(5)], 5),
        ({"images": torch.zeros(4, 3), "captions": ["a"] * 4}, 4),
        (["one", "two"], 2),
        ([], 0),
    ],
)
def test_count_samples(batch, expected):
    assert count_samples(batch) == expected


def test_count_samples_of_something_without_length():
    with pytest.raises(TypeError, match=r"a batch must have a length .* got int; .*~callbacks\.throughput"):
        count_samples(3)
