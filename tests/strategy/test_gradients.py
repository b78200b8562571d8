"""What crosses the network in an update: one transfer of the adapter's gradients, counted as it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import distributed

from diffopd.strategy.gradients import average_gradients, traffic
from support.tiny_runs import FORKED

COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor")
QUIET = ("reward=picture_quality", "phase.conflict_every_n_rounds=0")
"""A round that measures the conflict of the tasks sends each task's gradient, too."""
SMALL = 64
"""Values in a tensor of metrics at most."""


class Spy(Callback):
    """Notes the sizes of all tensors that a process hands to collective operations while it trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: list[int] = []

    def on_train_start(self, trainer, pl_module):
        assert trainer.model is pl_module, "no wrapper, which would send gradients and buffers by itself"
        for name in COLLECTIVES:
            setattr(distributed, name, self.noting(getattr(distributed, name)))

    def noting(self, operation):
        def call(*arguments, **named):
            tensors = [a for a in (*arguments, *named.values()) if isinstance(a, torch.Tensor)]
            self.sizes.append(max((tensor.numel() for tensor in tensors), default=0))
            return operation(*arguments, **named)

        return call

    def on_train_end(self, trainer, pl_module):
        self.folder.mkdir(exist_ok=True)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = {"sizes": self.sizes, "logged": logged, "counted": traffic().num_bytes}
        torch.save(found, self.folder / str(trainer.global_rank))


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
@pytest.mark.parametrize(
    ("name", "settings", "updates"),
    [
        # Two rounds of one update each, three micro-batches and three backward passes of each.
        ("mopd_ode", ("phase.micro_batch_size=1", "sampler.num_steps=4", *QUIET), 2),
        # Two rounds, with an update of the student and two of the fake score in each.
        pytest.param("mopd_dmd", ("phase.fake_updates_per_round=2", *QUIET), 6, marks=pytest.mark.slow),
    ],
)
def test_gradients_cross_once_per_update(world, tmp_path, name, settings, updates):
    experiment = world.build(name, tmp_path / "run", *settings, *FORKED)
    number = sum(p.numel() for p in experiment.phase.policies["student"].weights().values())
    assert number > SMALL
    experiment.trainer.callbacks.append(Spy(tmp_path / "spied"))
    experiment.fit()
    for rank in ("0", "1"):
        found = torch.load(tmp_path / "spied" / rank, weights_only=True)
        large = [size for size in found["sizes"] if size > SMALL]
        assert large == [number] * updates
        assert found["counted"] == 4 * number * updates
        assert found["logged"]["train/communication/bytes_per_update"] == 4 * number
        assert found["logged"]["train/communication/transfers_per_update"] == 1


def test_one_process_sends_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    before = traffic()
    average_gradients([parameter])
    assert traffic() == before
    assert torch.equal(parameter.grad, torch.ones(3))
