"""The one place that keeps known, harmless messages of other libraries off the screen."""

from __future__ import annotations

import logging
import os
import re
import warnings

LOG_NOISE: dict[str, str] = {
    "lightning.pytorch.utilities.rank_zero": (
        r"Tip: |litlogger|litmodels|TPU available|HPU available|`Trainer\.fit` stopped: `max_epochs|"
        r"Loading `train_dataloader` to estimate|`weights_only` was not set|distributed_backend="
    ),
    "lightning.fabric.utilities.distributed": r"Initializing distributed: ",
    "lightning.pytorch.trainer.connectors.checkpoint_connector": r"`weights_only` was not set",
    "transformers.utils.import_utils": r"requires torchvision \(not installed\)",
    # T5 is left out of small pipelines on purpose.
    "diffusers.pipelines.pipeline_utils": r"of type <class 'NoneType'> cannot be saved",
    "diffusers.loaders.lora_base": r"No LoRA keys associated to CLIPTextModel",
    "diffusers.loaders.peft": r"No LoRA keys associated to CLIPTextModel",
}
"""Logger name -> pattern of the messages to drop, searched for anywhere in a message."""

WARNING_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    # One small batch per round: workers would cost more than they give.
    (r".*does not have many workers", UserWarning),
    # Lightning's own use of a torch interface that is being renamed.
    (r".*`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # A round of one batch logs every step by definition.
    (r"The number of training batches \(\d+\) is smaller than the logging interval", UserWarning),
    # The frozen model stays in evaluation mode on purpose; nothing here has dropout.
    (r"Found \d+ module\(s\) in eval mode", UserWarning),
)
"""(pattern at the start of the text, category) of the warnings to drop."""


class DropMatching(logging.Filter):
    """Drops records whose message holds ``pattern``."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the record."""
        return self.pattern.search(record.getMessage()) is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DropMatching) and self.pattern == other.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)


CONSOLES = ("lightning", "lightning.pytorch", "lightning.fabric", "huggingface_hub")
"""Loggers of libraries that print by themselves what they hand on to the root logger, too."""


def silence_known_noise() -> None:
    """Drop the messages named above and no others, and print none twice; calling it again changes nothing."""
    if logging.getLogger().handlers:  # Hydra's, which print what is handed on
        for logger in map(logging.getLogger, CONSOLES):
            if logger.propagate:
                logger.handlers[:] = [
                    each for each in logger.handlers if type(each) is not logging.StreamHandler
                ]
    for name, pattern in LOG_NOISE.items():
        logging.getLogger(name).addFilter(DropMatching(pattern))  # an equal filter is not added twice
    for text, category in WARNING_NOISE:
        warnings.filterwarnings("ignore", message=text, category=category)


def say_only_what_is_new() -> None:
    """In a process beside the first: leave out what the libraries tell every process of a training alike.

    Errors stay, and so do warnings of this package, which may be of this process's samples alone.
    """
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # read when they are imported
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(name)s][%(levelname)s] - %(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or record.name.startswith("diffopd."))
    logging.getLogger().addHandler(handler)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric"):  # which has handlers of its own
        logging.getLogger(library).addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.simplefilter("ignore")
