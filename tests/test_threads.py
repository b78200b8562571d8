import logging

import pytest
import torch

from diffopd.host.threads import available_cores, choose_num_threads


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class SimulatedMachine:
    """A clock and a workload whose duration depends on torch's current number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now

    def workload(self) -> None:
        num_threads = torch.get_num_threads()
        self.calls.append(num_threads)
        # The first call with each number is slow, as warm-up is.
        warm_up = 100.0 if self.calls.count(num_threads) == 1 else 0.0
        self.now += self.seconds[num_threads] + warm_up


@pytest.mark.parametrize(
    ("seconds", "expected"), [({1: 1.6, 2: 1.0}, 2), ({1: 0.36, 2: 4.2}, 1), ({1: 1.0, 2: 1.0}, 1)]
)
def test_auto_keeps_the_faster(seconds, expected, caplog):
    machine = SimulatedMachine(seconds)
    with caplog.at_level(logging.INFO, logger="diffopd.host.threads"):
        chosen = choose_num_threads(machine.workload, "auto", cores=2, num_repeats=3, clock=machine.clock)
    assert chosen == expected
    assert torch.get_num_threads() == expected
    assert machine.calls == [1, 2] * 4
    assert f"torch threads: {expected}" in caplog.text
    assert f"measured: 1: {seconds[1]:.3f} s" in caplog.text


def test_one_slow_moment_does_not_decide():
    machine = SimulatedMachine({1: 1.0, 2: 0.7})

    def workload() -> None:
        machine.workload()
        if len(machine.calls) == 4:  # the first timed call with two threads is disturbed
            machine.now += 50.0

    assert choose_num_threads(workload, "auto", cores=2, num_repeats=3, clock=machine.clock) == 2


def test_fixed_setting_and_single_core_measure_nothing():
    def workload() -> None:
        raise AssertionError("nothing to measure")

    assert choose_num_threads(workload, 2) == 2
    assert torch.get_num_threads() == 2
    assert choose_num_threads(workload, "auto", cores=1) == 1
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("setting", ["all", 0, -1, True])
def test_bad_setting_names_key_value_and_choices(setting):
    with pytest.raises(
        ValueError, match=r"trainer\.num_threads must be 'auto' or an integer of at least 1, got"
    ):
        choose_num_threads(lambda: None, setting)


def test_available_cores_is_positive():
    assert available_cores() >= 1
