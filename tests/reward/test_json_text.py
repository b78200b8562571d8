"""JSON of any shape is a value or one sentence."""

import json

import pytest

from diffopd.reward.server.json_text import DEEPEST, MOST_VALUES, read_json


def nested(depth):
    return b"[" * depth + b"1" + b"]" * depth


def test_depth_ends_where_it_is_said_to():
    value = read_json(nested(DEEPEST), strict=True)
    assert json.dumps(value).encode() == nested(DEEPEST)
    for depth in (DEEPEST + 1, 900, 10**5):
        with pytest.raises(ValueError, match="nested deeper than 32 levels"):
            read_json(nested(depth), strict=True)
    with pytest.raises(ValueError, match="nested deeper than 32 levels"):
        read_json(b'{"a":' * 40 + b"1" + b"}" * 40, strict=True)


def test_values_are_counted_before_they_are_made(monkeypatch):
    most = b"[" + b",".join([b"1"] * MOST_VALUES) + b"]"
    assert len(read_json(most, strict=True)) == MOST_VALUES
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("they were made"))
    with pytest.raises(ValueError, match="more than 1000000 values"):
        read_json(b"[" + b"{}," * MOST_VALUES + b"1]", strict=True)


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b'{"a": -1.5e400}',
        b'{"a": -Infinity}',
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
    ],
)
def test_only_strict_reading_rejects_what_some_servers_write(text):
    with pytest.raises(ValueError, match=r"not a number in JSON|too large a number|surrogates not allowed"):
        read_json(text, strict=True)
    read_json(text, strict=False)


def test_texts_of_all_languages_are_read():
    value = {"ключ": ["zwei Kätzchen 🐱", {"a": "猫"}]}
    assert read_json(json.dumps(value).encode(), strict=True) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode(), strict=True) == value
