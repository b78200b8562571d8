"""The processes of one evaluation: how many, which one this is, and how they wait for each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from diffopd.host.signals import Ended

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""A process may wait as long as another one's last batch takes; one that dies is noticed at once."""
_HERE = "127.0.0.1"
_FAILED = "failed"


@dataclass(frozen=True)
class Processes:
    """This process among those of an evaluation.

    Attributes:
        rank: Its number among all, from 0.
        local_rank: Its number on this machine, from 0: that of its GPU.
        count: How many there are.
        local_count: How many of them on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    count: int = 1
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that checks, tells and writes results."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def told_by_first(self, find: Callable[[], T]) -> T:
        """What ``find`` gives in the first process; it is called there alone.

        If it raises, the other processes end silently: the first one has printed the reason.
        """
        if self.count == 1:
            return find()
        told: list[Any] = [_FAILED, None]
        try:
            if self.first:
                told = [None, find()]
        finally:
            distributed.broadcast_object_list(told, src=0)
        if told[0] == _FAILED:
            raise Ended(0)
        return cast(T, told[1])

    def share(self, units: list[T]) -> list[T]:
        """This process's units of work: every ``count``-th, so that each is in exactly one share."""
        return units[self.rank :: self.count]


ALONE = Processes()


def check_devices(devices: int, device: str) -> None:
    """Refuse a number of processes that cannot be had.

    Args:
        devices: The setting; how many processes to start.
        device: The setting; where their models are.

    Raises:
        ValueError: If there are too few GPUs, or if torchrun has started the processes already.
    """
    if devices == 1:
        return
    if started_by_torchrun():
        raise ValueError(
            f"devices={devices} starts its own processes, but torchrun has already started some; leave "
            "devices=1 and set torchrun --nproc-per-node=... only"
        )
    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(
            f"device={device} is one device, devices={devices} asks for several; set device=cuda, cpu or auto"
        )
    if device != "cpu" and torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise ValueError(
            f"devices={devices}, but there are {torch.cuda.device_count()} GPUs; set devices to that, or "
            "device=cpu"
        )


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextlib.contextmanager
def joined_by_torchrun() -> Iterator[Processes]:
    """Meet the processes that torchrun started beside this one."""
    numbers = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    with _joined(Processes(*numbers), {}) as processes:
        yield processes


@contextlib.contextmanager
def joined(rank: int, count: int, port: int) -> Iterator[Processes]:
    """Meet the other processes that :func:`run_processes` started.

    Args:
        rank: Number of this one.
        count: How many there are.
        port: Where the process that started them waits.
    """
    store = distributed.TCPStore(_HERE, port, is_master=False)
    with _joined(Processes(rank, rank, count, count), {"store": store}) as processes:
        yield processes


@contextlib.contextmanager
def _joined(processes: Processes, meeting: dict[str, Any]) -> Iterator[Processes]:
    # Next to nothing is said, so gloo will do, on GPUs too.
    distributed.init_process_group(
        "gloo", rank=processes.rank, world_size=processes.count, timeout=_PATIENCE, **meeting
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())  # what `cuda` means from here
    # After an error the others notice that this one is gone only when it has told why.
    yield processes
    distributed.destroy_process_group()


class ProcessEndedError(RuntimeError):
    """One of the processes ended with an error, which it has printed already.

    Args:
        rank: Which.
        code: Its exit code; -9 if signal 9 ended it.
    """

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(f"process {rank} ended with exit code {code}")
        self.rank, self.code = rank, code


def run_processes(work: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run ``work(rank, count, port, *arguments)`` in ``count`` new processes and wait for all.

    If one fails, the others are ended. They end, too, when this process does.

    Args:
        work: A function of a module; meets the others by :func:`joined`.
        count: How many.
        arguments: Handed on; plain values.

    Raises:
        ProcessEndedError: If one of them ends with an exit code other than 0.
    """
    import torch.multiprocessing as multiprocessing

    store = distributed.TCPStore(_HERE, 0, is_master=True, wait_for_workers=False)
    given = (count, store.port, *arguments)
    started: Any = multiprocessing.spawn(work, args=given, nprocs=count, join=False)
    try:
        while not started.join():
            pass
    except multiprocessing.ProcessExitedException as error:
        raise ProcessEndedError(error.error_index, error.exit_code) from error
    finally:
        for process in started.processes:  # this one is asked to end; Python would wait for the others
            if process.is_alive():
                process.terminate()
