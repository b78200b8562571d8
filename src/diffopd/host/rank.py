"""Which of a training's processes this one is, as whoever started it says in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

NOT_STARTED_BY_SLURM = ("bash", "interactive")
"""Names of SLURM jobs that are a shell: what is called there was not started by ``srun`` for each task."""


def launched_processes(environment: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Who started several processes, and how many: ``("torchrun", 8)``; None if nobody did.

    Args:
        environment: The environment.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun", int(environment["WORLD_SIZE"])
    if _by_slurm(environment):
        return "SLURM", int(environment["SLURM_NTASKS"])
    return None


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process that writes: the only one, or the first of all nodes.

    Args:
        environment: The environment.

    Examples:
        >>> is_first_process({}), is_first_process({"NODE_RANK": "1"}), is_first_process({"LOCAL_RANK": "1"})
        (True, False, False)
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        ranks = ("RANK",)
    elif _by_slurm(environment):
        ranks = ("SLURM_PROCID",)
    else:
        ranks = ("NODE_RANK", "LOCAL_RANK")
    return all(int(environment.get(name, 0)) == 0 for name in ranks)


def process_label(environment: Mapping[str, str] = os.environ) -> str:
    """The number of this process among all of its launch, or of its node and its own within that.

    Args:
        environment: The environment.

    Examples:
        >>> process_label({"LOCAL_RANK": "1"}), process_label({"NODE_RANK": "2", "LOCAL_RANK": "1"})
        ('1', '2.1')
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return environment.get("RANK", "0")
    if _by_slurm(environment):
        return environment.get("SLURM_PROCID", "0")
    node, local = environment.get("NODE_RANK", "0"), environment.get("LOCAL_RANK", "0")
    return local if int(node) == 0 else f"{node}.{local}"


def lacks_srun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is one process of a SLURM script, where several would have to be started by ``srun``.

    Args:
        environment: The environment.
    """
    return _in_slurm(environment) and not _by_slurm(environment)


def _in_slurm(environment: Mapping[str, str]) -> bool:
    return "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in NOT_STARTED_BY_SLURM


def _by_slurm(environment: Mapping[str, str]) -> bool:
    return _in_slurm(environment) and "SLURM_STEP_ID" in environment  # which srun sets
