"""Counts what the text encoders are asked for."""

from __future__ import annotations

import pytest

from diffopd.model import SD3Model


def recorded_encoder_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Prompts given to the encoders from now on, call by call."""
    given: list[list[str]] = []
    encode = SD3Model.encode_prompts

    def counted(model, texts):
        given.append(list(texts))
        return encode(model, texts)

    monkeypatch.setattr(SD3Model, "encode_prompts", counted)
    return given
