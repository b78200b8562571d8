"""Samples that a reward could not judge, saved for people to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from diffopd.files.atomic import atomic_write_json
from diffopd.files.png import save_png
from diffopd.reward.checked import RewardError, Sample

FOLDER = "failed_reward"
"""Subfolder of a run's folder."""


def save_sample(sample: Sample, run: Path, name: str, problem: str) -> str:
    """Write ``<run>/failed_reward/<name>.png`` and, with prompt, metadata and problem, ``<name>.json``.

    Pixels that are no number are black in the picture.

    Args:
        sample: The sample.
        run: The run's folder.
        name: Of the files, without ending; an older sample of the same name is replaced.
        problem: What is wrong with its reward.

    Returns:
        Where it is saved, or why it could not be: that must not hide the problem itself.
    """
    prompt = sample.prompt
    place = run / FOLDER / name
    try:
        image = save_png(sample.image.nan_to_num(0.0), place.with_name(f"{name}.png"))
        atomic_write_json(
            place.with_name(f"{name}.json"),
            {
                "problem": problem,
                "prompt": prompt.texts[0],
                "task": prompt.tasks[0],
                "metadata": dict(prompt.metadata[0]),
                "index": prompt.indices[0],
                "group": prompt.groups[0],
            },
        )
    except (OSError, TypeError, ValueError) as error:
        return f"the sample could not be saved ({error})"
    return f"saved for inspection: {image}"


@contextlib.contextmanager
def failures_saved(run: Path, when: str) -> Iterator[None]:
    """Save the sample of a :class:`RewardError` that leaves the block, and say where in its message.

    Args:
        run: The run's folder.
        when: Begins the name of the files, e.g. ``round_000003``; task and sample index follow.
    """
    try:
        yield
    except RewardError as error:
        if error.sample is not None:
            prompt = error.sample.prompt
            name = f"{when}_{prompt.tasks[0]}_{prompt.indices[0]:05d}"
            error.note = save_sample(error.sample, run, name, str(error))
        raise
