"""Can the processes of a training share its work?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffopd.check.chosen import target_of
from diffopd.check.setting import phase_takes
from diffopd.check.source import constant
from diffopd.check.tasks import tasks_of
from diffopd.host.rank import lacks_srun, launched_processes


def process_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Processes start, have a strategy to share their work by, and take equal shares of a round."""
    trainer = values.get("trainer") or {}
    yield from _strategy(values, trainer)
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or not isinstance(nodes, int) or devices < 1:
        return
    number = devices * nodes
    if number > 1 and target_of(trainer, "strategy") == "":
        yield (
            f"trainer.devices={devices} needs a strategy to share the work by; choose trainer=ddp or "
            "trainer=sharded"
        )
    launched = launched_processes()
    if launched is not None and launched[1] != number:
        yield (
            f"{launched[0]} started {launched[1]} processes, but trainer.devices={devices} times "
            f"trainer.num_nodes={nodes} are {number}; choose trainer=ddp and make both the same"
        )
    if number > 1 and lacks_srun():
        yield "in a SLURM job several processes are started by srun: srun python -m diffopd.train ..."
    batch = (values.get("data") or {}).get("batch_size")
    if isinstance(batch, int) and batch % number:
        yield f"data.batch_size={batch} must be a multiple of {_number_of_processes(devices, nodes)}"
    for at in tasks_of(values).values():
        prompts = at.entry.get("prompts_per_round")
        if isinstance(prompts, int) and prompts % number:
            yield (
                f"{at.setting}.prompts_per_round={prompts} must be a multiple of "
                f"{_number_of_processes(devices, nodes)}"
            )
    if number > 1 and constant(target_of(values, "phase"), "one_process"):
        yield "phase=gradient_variance measures in one process; set trainer=default"


def _number_of_processes(devices: int, nodes: int) -> str:
    return f"the number of processes, trainer.devices={devices} times {nodes} node{'s' * (nodes > 1)}"


def _strategy(values: Mapping[str, Any], trainer: Mapping[str, Any]) -> Iterator[str]:
    """Lightning's own strategies share other things than what a phase expects; shards suit not all phases."""
    given = trainer.get("strategy")
    if isinstance(given, str) and given != "auto":
        yield (
            f"trainer.strategy={given} is not one of this project's; choose trainer=ddp or trainer=sharded, "
            "and for processes that are copies of one trainer.strategy.start_method=fork"
        )
    if not constant(target_of(trainer, "strategy"), "divides_backbone"):
        return
    if not constant(target_of(values, "phase"), "shards_backbone"):
        yield (
            "trainer=sharded divides a frozen backbone, which this phase does not have; choose trainer=ddp"
        )
    if phase_takes(values, "teacher") and (values.get("teacher") or {}).get("offload_idle") is True:
        yield (
            "trainer=sharded divides teachers among the processes, and teacher.offload_idle=true moves whole "
            "ones; set teacher.offload_idle=false"
        )
    if (values.get("model") or {}).get("compile") is True:
        yield "trainer=sharded with model.compile=true is not supported; set model.compile=false"
