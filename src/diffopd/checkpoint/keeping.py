"""Which checkpoints stay: the newest, some for good, and all that is not known to be damaged."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from diffopd.checkpoint.folder import (
    CheckpointError,
    DamagedCheckpointError,
    checkpoint_name,
    list_checkpoints,
    remove_checkpoint,
    round_of,
    set_aside,
    verify_checkpoint,
)
from diffopd.files.atomic import new_folder

log = logging.getLogger(__name__)


def superfluous(checkpoints: Sequence[Path], keep_last: int, keep_every_n_rounds: int | None) -> list[Path]:
    """Those checkpoints that need not be kept.

    Args:
        checkpoints: Oldest first.
        keep_last: How many of the newest to keep.
        keep_every_n_rounds: Those after a multiple of so many rounds are kept, too; None for no others.
    """
    return [
        checkpoint
        for checkpoint in checkpoints[:-keep_last]
        if keep_every_n_rounds is None or round_of(checkpoint) % keep_every_n_rounds
    ]


def copy_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint to another folder of checkpoints, whole or not at all.

    Returns:
        The copy. What has its name there is moved to ``set_aside``, if it is no damaged checkpoint.
    """
    target = folder / checkpoint.name
    make_way(folder, round_of(checkpoint))
    remove_checkpoint(target)
    with new_folder(target) as temporary:
        shutil.copytree(checkpoint, temporary, dirs_exist_ok=True)
    log.info("%s is copied to %s", checkpoint, folder)
    return target


def is_damaged(folder: Path) -> bool:
    """Whether a checkpoint failed its verification, and so may be removed."""
    try:
        verify_checkpoint(folder)
    except DamagedCheckpointError:
        return not folder.is_symlink()
    except CheckpointError:
        return False
    return False


def make_way(folder: str | PathLike[str], num_rounds: int) -> None:
    """Let no entry stand where a checkpoint is about to be saved, unless it is a damaged checkpoint.

    Args:
        folder: The folder that holds ``round_000010``, ...
        num_rounds: Of the one to be saved.
    """
    path = Path(folder) / checkpoint_name(num_rounds)
    if os.path.lexists(path) and not is_damaged(path):
        set_aside(path)


def clear_later(folder: str | PathLike[str], after: int, saved: int) -> None:
    """Let no other checkpoint stand that is later than the one a run was resumed from.

    One that failed verification is removed. Any other (of a newer format, not readable when the run was
    resumed, of another run) is moved to ``set_aside``.

    Args:
        folder: The folder that holds ``round_000010``, ...
        after: Round of the newest checkpoint that is known to be the run's own, 0 if there is none.
        saved: That of the one which was saved just now.
    """
    for path in list_checkpoints(folder):
        if round_of(path) <= after or round_of(path) == saved:
            continue
        if is_damaged(path):
            log.warning("removing the damaged checkpoint %s", path)
            remove_checkpoint(path)
        else:
            set_aside(path)
