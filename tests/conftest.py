"""What every test runs under: one torch thread per process, and the files the tests read."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Python's collector looks at all that was imported, again and again: a fifth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of reference values; see its README for where they come from."""
    return Path(__file__).parent / "data" / "golden"


@pytest.fixture(scope="session")
def conf_dir() -> Path:
    """Root of the config groups."""
    return Path(__file__).parents[1] / "conf"


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the test suite's shape checks off, to reach the errors that users see without them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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
    HydraConfig.instance().cfg = None
