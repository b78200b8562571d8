"""Which settings leave something the same, whatever their value: one table for all that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

RUN = "run"
"""Is it the same run, so that it can be resumed? (``run.settings``)"""
EVALUATION = "evaluation"
"""Are the scores the same but for rounding? (``evaluate.settings``)"""
METHOD = "method"
"""Are two runs seeds of one method? (``report.methods``)"""
TRAINING = "training"
"""Do two ablations ask for one training? (``jobs.cells``)"""

HOW_TO_ASK = (
    "address",
    "token_variable",
    "timeout",
    "retries",
    "backoff",
    "concurrency",
    "images_per_request",
)
"""Settings of a reward that a server computes: a server that moves is still the same scorer."""
HOW_TO_SCORE = (*HOW_TO_ASK, "batch_size", "device")
"""The same, and where and how fast a scorer works: what it says differs by rounding."""

_OF_SCORERS = {RUN: (("reward.", "phase.held_out."), HOW_TO_ASK), EVALUATION: (("benchmark.",), HOW_TO_SCORE)}
"""Beginnings of the paths of scorers' settings, and the ends that are harmless."""

HARMLESS: Mapping[str, tuple[str, ...]] = {
    # What it is called, where it is kept, how it is started and told.
    "name": (RUN, EVALUATION, METHOD, TRAINING),
    "run_id": (RUN, EVALUATION, METHOD, TRAINING),
    "paths": (RUN, EVALUATION, METHOD, TRAINING),
    "resume": (RUN, EVALUATION, METHOD, TRAINING),
    "debug": (RUN, EVALUATION, METHOD, TRAINING),
    "if_finished": (RUN, METHOD, TRAINING),
    "logger": (RUN, METHOD, TRAINING),
    "hydra": (EVALUATION,),
    # What watches a run and what follows it.
    "callbacks": (RUN, METHOD),
    "report": (RUN, METHOD),
    "benchmark": (RUN, METHOD),
    "phase.score_in_background": (RUN,),
    "phase.score_every_n_rounds": (RUN,),  # scores for the log
    "check_scorers": (EVALUATION,),
    "scorer_pairs": (EVALUATION,),
    "domain": (RUN, EVALUATION, METHOD, TRAINING),  # what it sets counts where it is read
    # Where it runs and how fast.
    "hardware": (RUN,),  # what it sets counts where it is set
    "batch_size": (EVALUATION,),
    "num_threads": (EVALUATION,),
    "device": (EVALUATION,),
    "devices": (EVALUATION,),
    "model.prompt_cache": (RUN, EVALUATION),
    "model.decode_batch_size": (RUN, EVALUATION),
    "model.offload_text_encoders": (EVALUATION,),
    "phase.output": (RUN,),  # a folder, which may have been moved
    # How long, where and with what output a training runs; what else the trainer has counts for a run.
    "trainer": (METHOD,),  # the number of rounds is compared by itself
    "trainer.accelerator": (RUN,),
    "trainer.devices": (RUN,),
    "trainer.num_nodes": (RUN,),
    "trainer.strategy": (RUN,),
    "trainer.max_epochs": (RUN,),  # but where the learning rate falls to 0 in the last round
    "trainer.max_time": (RUN,),
    "trainer.num_threads": (RUN,),
    "trainer.deterministic": (RUN,),
    "trainer.benchmark": (RUN,),
    "trainer.default_root_dir": (RUN,),
    "trainer.enable_*": (RUN,),
    "trainer.log_every_n_steps": (RUN,),
    "trainer.num_sanity_val_steps": (RUN,),
    "trainer.use_distributed_sampler": (RUN,),
    "trainer.profiler": (RUN,),
    "trainer.detect_anomaly": (RUN,),
    # What tells the runs of one method apart.
    "seed": (METHOD,),
}
"""Setting with all below it (``*`` for any text) -> what it leaves the same. A new setting counts for all."""
_PATTERNS = tuple(setting for setting in HARMLESS if "*" in setting)


def is_harmless(path: str, to: str) -> bool:
    """Whether a setting leaves something the same, whatever its value.

    Args:
        path: Config path of the setting.
        to: :data:`RUN`, :data:`EVALUATION`, :data:`METHOD` or :data:`TRAINING`.

    Examples:
        >>> is_harmless("logger.csv.name", RUN), is_harmless("logger.csv.name", EVALUATION)
        (True, False)
        >>> is_harmless("trainer.enable_progress_bar", RUN), is_harmless("trainer.precision", RUN)
        (True, False)
        >>> is_harmless("reward.rewards.ocr.address", RUN), is_harmless("reward.rewards.ocr.scale", RUN)
        (True, False)
    """
    parts = path.split(".")
    begins, ends = _OF_SCORERS.get(to, ((), ()))
    if path.startswith(begins) and parts[-1] in ends:
        return True
    for length in range(1, len(parts) + 1):
        part = ".".join(parts[:length])
        settings = (part, *(pattern for pattern in _PATTERNS if fnmatchcase(part, pattern)))
        if any(to in HARMLESS.get(setting, ()) for setting in settings):
            return True
    return False
