"""One of several processes of an evaluation; here, as a new process imports no module called ``__main__``."""

from __future__ import annotations

import os
import sys
from typing import Any

from omegaconf import OmegaConf

from diffopd.check import config_errors
from diffopd.command.program import STOPPED, errors_told
from diffopd.host.quiet import silence_known_noise
from diffopd.host.start import begin


def evaluate_in_process(rank: int, count: int, port: int, settings: dict[str, Any]) -> None:
    """One of several; started with nothing but a config."""
    begin(label=f"[process {rank}] " if rank else "", speaks=False)  # the process that started it speaks
    silence_known_noise()
    from diffopd.evaluate.run import evaluate_share
    from diffopd.evaluation.processes import joined

    cfg = OmegaConf.create(settings)
    try:
        with errors_told(debug=cfg.debug), config_errors(), joined(rank, count, port) as processes:
            evaluate_share(cfg, processes)
    except SystemExit as end:
        # All is said. An orderly exit can abort instead (SIGABRT): threads of gloo still wait for the others.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else STOPPED)
