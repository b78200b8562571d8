import logging
import warnings

import pytest

from diffopd.host.quiet import CONSOLES, LOG_NOISE, silence_known_noise

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


@pytest.mark.parametrize("name", CONSOLES)
def test_a_message_is_printed_once(name, monkeypatch, capsys):
    import lightning  # whose import gives its loggers consoles of their own

    assert lightning.Trainer
    library, root = logging.getLogger(name), logging.getLogger()
    printed: list[str] = []
    own, theirs = logging.Handler(), logging.StreamHandler()
    own.emit = lambda record: printed.append(record.getMessage())
    monkeypatch.setattr(theirs, "emit", own.emit)
    monkeypatch.setattr(root, "handlers", [own])
    monkeypatch.setattr(library, "handlers", [theirs])
    monkeypatch.setattr(library, "propagate", True)
    library.warning("before")
    assert printed.count("before") == 2
    silence_known_noise()
    library.warning("after")
    assert printed.count("after") == 1


def test_a_library_that_nobody_else_prints_keeps_its_console(monkeypatch):
    library, console = logging.getLogger("lightning"), logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(library, "handlers", [console])
    silence_known_noise()
    assert library.handlers == [console]
