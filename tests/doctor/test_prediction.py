"""Predictions worked out by hand from made-up measurements."""

from dataclasses import replace

import pytest

from diffopd.doctor.finding import Level
from diffopd.doctor.measure import FIRST, FULLER, PLAIN, Measured, MeasuredRound, kinds_of_rounds
from diffopd.doctor.prediction import Prediction
from diffopd.doctor.prompts import CacheFilling
from diffopd.doctor.stopwatch import Stopwatch

GIB, MIB = 1024**3, 1024**2
ROUNDS = (
    MeasuredRound(FIRST, 10.0, {"text encoding": 6.0, "backward": 3.0}),
    MeasuredRound(FULLER, 5.0, {"backward": 3.0, "rewards": 1.5}),
    MeasuredRound(PLAIN, 4.0, {"backward": 3.0}),
)
MEASURED = Measured(
    rounds=ROUNDS,
    save_seconds=0.5,
    checkpoint_bytes=4 * MIB,
    end_bytes=3 * MIB,
    log_bytes=MIB // 10,
    peak_bytes=6 * GIB,
    weight_bytes=5 * GIB,
    filling=CacheFilling(),
    total_bytes=8 * GIB,
    on_gpu=False,
)
TEN_ROUNDS = (
    "trainer.max_epochs=10",
    "phase.score_every_n_rounds=5",  # rounds 0 and 5
    "phase.conflict_every_n_rounds=0",
    "callbacks.round_checkpoint.every_n_rounds=4",
    "callbacks.round_checkpoint.keep_last=1",
)


@pytest.fixture
def ten_rounds(plan):
    return plan("mopd_ode", *TEN_ROUNDS)


def test_time_is_rounds_of_each_kind_and_checkpoints(ten_rounds):
    assert kinds_of_rounds(ten_rounds) == [FIRST, FULLER, PLAIN]
    found = Prediction.of(ten_rounds, MEASURED)
    # One first, one fuller, eight plain ones; checkpoints after 4, 8 and 10 rounds.
    assert sum(found.seconds.values()) == pytest.approx(10 + 5 + 8 * 4 + 3 * 0.5)
    assert found.seconds == pytest.approx(
        {"backward": 30, "other": 1 + 0.5 + 8, "text encoding": 6, "rewards": 1.5, "checkpoints": 1.5}
        | {"encoding prompts": 0}
    )
    assert next(iter(found.seconds)) == "backward"


def test_filling_the_prompt_cache_is_shared_by_the_processes(ten_rounds):
    measured = replace(MEASURED, filling=CacheFilling(num_prompts=100, seconds=20.0, bytes=50 * MIB))
    assert Prediction.of(ten_rounds, measured).seconds["encoding prompts"] == 20
    assert Prediction.of(replace(ten_rounds, processes=2), measured).seconds["encoding prompts"] == 10
    assert Prediction.of(ten_rounds, measured).filling.bytes == 50 * MIB


def test_what_dominates_is_said_with_what_would_help(ten_rounds):
    found = [f for f in Prediction.of(ten_rounds, MEASURED).findings() if f.about == "time"]
    assert found[0].level == Level.NOTE
    assert found[0].text.startswith("backward takes 62%; to reduce it: fewer trained steps")
    slow = [replace(one, seconds=20.0) for one in ROUNDS]  # "other" dominates, of which nothing is known
    assert not [
        f for f in Prediction.of(ten_rounds, replace(MEASURED, rounds=slow)).findings() if f.about == "time"
    ]


def test_disk_is_the_kept_checkpoints_and_the_one_being_written(ten_rounds):
    disk = Prediction.of(ten_rounds, MEASURED).disk
    assert disk == {"checkpoints": 2 * 4 * MIB, "what is saved at the end": 3 * MIB, "logs": 10 * (MIB // 10)}


def test_no_more_checkpoints_than_are_written(plan):
    once = plan("mopd_ode", *TEN_ROUNDS, "callbacks.round_checkpoint.every_n_rounds=100")
    assert Prediction.of(once, MEASURED).disk["checkpoints"] == 4 * MIB
    third = plan("mopd_ode", *TEN_ROUNDS, "callbacks.round_checkpoint.keep_every_n_rounds=8")
    assert Prediction.of(third, MEASURED).disk["checkpoints"] == 3 * 4 * MIB  # 8, 10 and the one before
    none = replace(once, values={**once.values, "callbacks": {}})
    assert Prediction.of(none, MEASURED).disk["checkpoints"] == 0


@pytest.mark.parametrize(
    ("processes", "on_gpu", "present", "level"),
    [
        (1, False, 8, Level.FINE),
        (1, False, 6.5, Level.WARNING),
        (1, True, 5, Level.FAILURE),
        (2, False, 8, Level.FAILURE),  # processes share the memory
        (2, True, 8, Level.FINE),  # but each has a GPU of its own
    ],
)
def test_memory_of_all_processes_against_what_is_there(ten_rounds, processes, on_gpu, present, level):
    measured = replace(MEASURED, on_gpu=on_gpu, total_bytes=round(present * GIB))
    prediction = Prediction.of(replace(ten_rounds, processes=processes), measured)
    (found,) = [f for f in prediction.findings() if f.about == "memory"]
    assert found.level == level
    assert prediction.memory == {"weights": 5 * GIB, "activations and all else": GIB}


def test_kinds_of_rounds_that_do_not_come_are_not_measured(plan):
    never = ("phase.score_every_n_rounds=0", "phase.conflict_every_n_rounds=0")
    always = ("phase.score_every_n_rounds=1",)
    assert kinds_of_rounds(plan("mopd_ode", "trainer.max_epochs=1")) == [FIRST]
    assert kinds_of_rounds(plan("mopd_ode", "trainer.max_epochs=5", *never)) == [FIRST, PLAIN]
    assert kinds_of_rounds(plan("mopd_ode", "trainer.max_epochs=5", *always)) == [FIRST, FULLER]


def test_calls_within_calls_are_counted_once():
    times = iter(range(100))
    stopwatch = Stopwatch(lambda: float(next(times)))
    inner = stopwatch.timed(lambda: None, "inner")  # from one tick to the next: 1
    outer = stopwatch.timed(lambda: [inner(), inner()], lambda: "outer")
    outer()  # ticks 0 to 5, of which 1 to 2 and 3 to 4 are inner
    assert stopwatch.seconds == {"inner": 2.0, "outer": 3.0}


def test_rewards_stay_what_they_are():
    class Mine:
        def __call__(self, images, prompts):
            return len(prompts)

    class Phase:
        reward = Mine()
        held_out = {"plain": lambda images, prompts: 7}  # noqa: RUF012

    phase, times = Phase(), iter(range(100))
    stopwatch = Stopwatch(lambda: float(next(times)))
    stopwatch.watch(phase)
    assert isinstance(phase.reward, Mine)
    assert type(phase.reward).__name__ == "Mine"
    assert (phase.reward(None, "ab"), phase.held_out["plain"](None, "")) == (2, 7)
    assert stopwatch.seconds == {"rewards": 2.0}
