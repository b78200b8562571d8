"""Hashing of many gigabytes is announced once, with its progress."""

from __future__ import annotations

import logging

import pytest

from diffopd.files import fingerprint
from diffopd.weights import hashing
from diffopd.weights.hashing import hash_ahead


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Four files that count as large, and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "LARGE", 10)
    monkeypatch.setattr(hashing, "WORTH_A_LINE", 100)
    made = [tmp_path / f"weights{number}" for number in range(4)]
    for number, file in enumerate(made):
        file.write_bytes(bytes([number]) * 50)
    return made


def lines(caplog, given):
    seconds = iter(range(0, 1000, 6))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        hash_ahead(given, "base weights", clock=lambda: next(seconds))
    return [record.message for record in caplog.records if record.levelno >= logging.INFO]


def test_it_is_told_once_and_how_far_it_is(large, caplog):
    assert lines(caplog, [*large, large[0]]) == [
        "hashing 0.0 GB of base weights, once (SHA-256, remembered while the files stay as they are)",
        "hashed 0.0 of 0.0 GB, 12 s left",
        "hashed 0.0 GB in 30 s",
    ]
    assert lines(caplog, large) == []  # they are known
    large[0].write_bytes(b"another" * 50)
    assert len(lines(caplog, large)) == 2


def test_small_files_are_not_worth_a_line(large, caplog, monkeypatch):
    monkeypatch.setattr(hashing, "WORTH_A_LINE", 201)
    assert lines(caplog, large) == []


def test_one_process_speaks_for_all(large, caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert lines(caplog, large) == []
    assert fingerprint.is_hashed(large[0])
