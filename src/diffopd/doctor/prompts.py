"""What filling the prompt cache of a training takes: a few prompts are encoded, in a folder thrown away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffopd.data.rounds import RoundData
from diffopd.doctor.stopwatch import Clock
from diffopd.model import PipelineModel
from diffopd.model.prompt_cache import PromptCache

SAMPLE = 64
"""Prompts that are encoded and timed."""


@dataclass(frozen=True)
class CacheFilling:
    """What filling the cache takes.

    Attributes:
        num_prompts: Prompts that the planned rounds draw and the cache does not hold yet.
        seconds: Time to encode them, on one process.
        bytes: Disk they take.
    """

    num_prompts: int = 0
    seconds: float = 0.0
    bytes: int = 0


def cache_filling(
    phase: Any, data: Any, rounds: int, folder: str | None, now: Clock, say: Callable[[str], None]
) -> CacheFilling:
    """Encode up to ``SAMPLE`` of the prompts that are missing, and scale up.

    Args:
        phase: Its model has a cache in a temporary folder.
        data: Its prompts.
        rounds: Rounds planned; times the number of processes where ``data`` is one process's share.
        folder: The cache of the training itself; it is read, nothing is added.
        now: Seconds, rising.
        say: Told what is being done.
    """
    model = getattr(phase, "model", None)
    if folder is None or not isinstance(data, RoundData) or not isinstance(model, PipelineModel):
        return CacheFilling()
    trial = model.prompt_cache
    assert trial is not None
    texts = [text or model.empty_prompt for text in ("", *data.texts_of(rounds))]
    there = PromptCache.already_in(folder, trial.encoder)
    missing = list(dict.fromkeys(texts)) if there is None else there.missing(texts)
    if not missing:
        return CacheFilling()
    sample = missing[:SAMPLE]
    say(f"encoding {len(sample)} of the {len(missing):,} prompts that the prompt cache will hold")
    start = now()
    model.encode_ahead(sample, 0, 1)
    seconds = now() - start
    size = sum(file.stat().st_size for file in trial.folder.glob("*.safetensors"))
    factor = len(missing) / len(trial)
    return CacheFilling(len(missing), seconds * factor, round(size * factor))
