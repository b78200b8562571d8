import logging
import warnings

import pytest

from diffopd.quiet import LOG_NOISE, silence_known_noise

LIGHTNING = "lightning.pytorch.utilities.rank_zero"


@pytest.fixture
def quiet():
    before = {name: list(logging.getLogger(name).filters) for name in LOG_NOISE}
    with warnings.catch_warnings():
        silence_known_noise()
        yield
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


@pytest.fixture
def heard(quiet):
    """What is logged by Lightning's logger, with handlers called as in a run."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger(LIGHTNING)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_training_logs_no_tips(heard, fit, tiny_phase):
    fit(tiny_phase(), [], 1)
    assert not [message for message in heard if "Tip" in message or "litlogger" in message]
    assert [message for message in heard if "GPU available" in message], "other messages must appear"


def test_other_log_messages_appear(heard):
    logger = logging.getLogger(LIGHTNING)
    logger.info("💡 Tip: %s", "install something")
    logger.warning("loss is high")
    assert heard == ["loss is high"]


def test_known_warnings_are_dropped_and_others_appear(quiet):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_known_noise()
        warnings.warn("The 'train_dataloader' does not have many workers which", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["something else"]


def test_calling_twice_adds_nothing(quiet):
    count = len(logging.getLogger(LIGHTNING).filters)
    silence_known_noise()
    assert len(logging.getLogger(LIGHTNING).filters) == count
