"""What encoding takes that is done once: a prompt cache, or the captions and pictures of your own data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffopd.context import told_by
from diffopd.data.pairs import PairData
from diffopd.data.rounds import RoundData
from diffopd.doctor.stopwatch import Clock
from diffopd.model import PipelineModel
from diffopd.model.prompt_cache import PromptCache
from diffopd.phase.policy_phase import MAX_ENCODED
from diffopd.teacher import SelfTeacher

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


def picture_encoding(phase: Any, data: Any, measured: int, rounds: int, now: Clock) -> float:
    """Seconds that encoding captions, and pictures that a teacher is shown, takes in a whole run.

    They are kept in memory, so each is encoded in the first pass alone, and a few measured rounds would tell
    too much. Those of the rounds to be measured are encoded here, timed, and scaled up.

    Args:
        phase: On its device.
        data: Its data; of other data than pictures nothing is encoded.
        measured: Rounds that will be measured.
        rounds: Rounds of the run.
        now: Seconds, rising.
    """
    if not isinstance(data, PairData):
        return 0.0
    teacher, rows = getattr(phase, "teacher", None), set[Any]()
    start = now()
    for number in range(measured):
        prompts = data.batch(number)
        told = [prompts]
        if isinstance(teacher, SelfTeacher):
            told.append(told_by(teacher.context, prompts))
        for each in told:
            phase.conditioning(each)
        rows |= set(zip(prompts.texts, prompts.targets, strict=True))
    seconds = now() - start
    drawn = sum(task.prompts_per_round for task in data.tasks.values()) * rounds
    captions = sum(len(entry.texts) for task in data.tasks.values() for entry in task.entries)
    once = min(captions, drawn) if 2 * captions <= MAX_ENCODED else drawn
    return seconds * max(once / len(rows), 1.0)
