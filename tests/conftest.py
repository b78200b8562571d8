"""What every test runs under: one torch thread per process, and the files the tests read."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from support import cpu_seconds
from support.composition import RememberedChoices
from support.slow import slow_but
from support.tower_beartype import check_tensors_alone

if TYPE_CHECKING:
    from diffopd.model import SD3Model
    from support.tiny_pipelines import TinyPipeline
    from support.tiny_runs import TinyWorld

torch.set_num_threads(1)
check_tensors_alone()


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option to see where the time goes."""
    parser.addoption(
        "--cpu-seconds", type=Path, metavar="FILE", help="add each test's processor seconds to FILE"
    )


LONG = (
    "/tests/benchmarks/test_rehearsal.py",
    "/tests/benchmarks/test_soak.py",
    "/tests/strategy/test_deaths.py",
    "/tests/test_evaluation_processes.py",
    "/tests/test_own_reward.py",
    "/tests/test_cascade.py",
    "/tests/test_table.py",
    "/tests/test_ablations.py",
    "/tests/test_mini_model.py",
    "/tests/strategy/test_programs.py",
    "/tests/fuzz/test_fuzz.py",
)
"""Files with few tests of half a minute and more: `make test-slow` hands them out first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all else as it was."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With the option, note what a test and its fixtures take."""
    file, before = item.config.getoption("cpu_seconds"), cpu_seconds.used()
    result = yield
    if file is not None:
        cpu_seconds.note(file, item.nodeid, cpu_seconds.used() - before)
    return result


def pytest_collection_finish() -> None:
    """Python's collector looks at all that was imported, again and again: a fifth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def remembered_choices() -> Iterator[RememberedChoices]:
    """Hydra composes a set of choices once a process; values are set on copies of it."""
    remembered = RememberedChoices()
    with pytest.MonkeyPatch.context() as patch:
        remembered.install(patch)
        yield remembered


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write need not outlive a loss of power; a training waits thirty times for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_products_in_bf16() -> Iterator[None]:
    """As on processors without instructions for it: batches of other shapes then give the same to 1e-5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu.get_capabilities", dict)
        yield


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of reference values; see its README for where they come from."""
    return Path(__file__).parent / "data" / "golden"


@pytest.fixture(scope="session")
def conf_dir() -> Path:
    """Root of the config groups."""
    return Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """The tiny model, teachers and prompts that experiments run on; nothing may write into it."""
    from support.tiny_runs import make_world  # seconds, which the mathematics' tests do not need

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session", params=slow_but(["without_t5", "with_t5"], "with_t5"))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyPipeline:
    """Each of the two SD3 pipelines: what is asked holds for both. The embedded model is one without T5."""
    from support import tiny_pipelines

    return getattr(tiny_pipelines, request.param)(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def model(tiny: TinyPipeline) -> SD3Model:
    """The SD3 model on ``tiny``."""
    from diffopd.model import SD3Model

    return SD3Model(**tiny.settings)


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the test suite's shape checks off, to reach the errors that users see without them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def no_run_left_behind() -> Iterator[None]:
    """A command that a test calls leaves its run's folder, where configs of later tests would find it."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def no_hydra_traces() -> Iterator[None]:
    """Hydra leaves the latest run in global variables, and its loggers, where later tests would find them."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()
