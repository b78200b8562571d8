"""Scores of an adapter on a benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffopd.api.given import Place, listed
from diffopd.check import config_errors
from diffopd.command.called import call_command, compose_command
from diffopd.config.arguments import ADAPTER, hydra_arguments, quoted

if TYPE_CHECKING:
    from diffopd.evaluation import EvaluationResult


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        folder: Its folder: ``results.json``, the sheet, the images.
        result: Scores with intervals, by task, tag and image.
    """

    folder: Path
    result: EvaluationResult

    @property
    def scores(self) -> dict[str, float]:
        """Task -> mean reward."""
        return self.result.means

    @property
    def sheet(self) -> Path:
        """The first images of each task, a PNG."""
        return self.folder / "images.png"


def evaluate_model(
    adapter: Place | None = None, *, benchmark: str = "mini", overrides: Sequence[str] = ()
) -> Evaluation:
    """Score an adapter, or the base model, as ``diffopd evaluate`` does.

    The same call finds its folder again: one that was cut short is resumed, a finished one is read.

    Args:
        adapter: A LoRA in any format or a whole transformer; None = the base model.
        benchmark: A file of ``conf/benchmark``.
        overrides: Of ``conf/evaluate.yaml``, e.g. ``["model=sd3_5_medium", "guidance_scale=1"]``.

    Returns:
        The finished evaluation.

    Raises:
        ConfigError: If the config cannot work.
        StoppedError: If one of several processes (``devices=4``) ended before it was done.
    """
    from diffopd.evaluate.__main__ import run
    from diffopd.evaluate.folder import EvaluationFolder
    from diffopd.evaluate.settings import register_evaluation_id
    from diffopd.evaluation import EvaluationResult

    register_evaluation_id()
    given = [] if adapter is None else [f"adapter={quoted(os.fspath(adapter))}"]
    given += [f"benchmark={benchmark}", *listed(overrides)]
    cfg = compose_command("evaluate", given, arguments=hydra_arguments, short=ADAPTER)
    folder = EvaluationFolder(Path(cfg.paths.run))  # before the commit of a model on the hub is put in
    call_command(config_errors()(run), cfg, "evaluate", short=ADAPTER)
    return Evaluation(folder.path, EvaluationResult.load(folder.results))
