"""A training of two processes in which one may die: the environment's ``HOW`` and ``WHO`` say which."""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

from lightning.pytorch import Trainer

from diffopd.callbacks import RoundCheckpoint
from diffopd.strategy import DataParallel, launcher
from diffopd.strategy.together import gather, together

launcher.WORKER = "job"
FOLDER = Path(os.environ["FOLDER"])


def tiny_phase():
    spec = importlib.util.spec_from_file_location("tiny", os.environ["TINY"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TinyPhase()


def fate(round_index):
    """In the second round one process dies, and the other waits for ever."""
    if round_index != 1 or os.environ["HOW"] == "live":
        return
    if int(os.environ["WHO"]) != trainer.global_rank:
        time.sleep(10_000)
    (FOLDER / "died").write_text(str(time.time()))
    if os.environ["HOW"] == "raise":
        raise RuntimeError("out of luck")
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ:
    assert launcher.read_config() == "a: config\n"
phase = tiny_phase()
phase.before_round = fate
trainer = Trainer(
    accelerator="cpu",
    devices=2,
    strategy=DataParallel(start_method="popen", timeout_minutes=30),
    max_epochs=3,
    logger=False,
    callbacks=[
        RoundCheckpoint(
            folder=str(FOLDER / "checkpoints"), every_n_rounds=100, keep_last=2, keep_every_n_rounds=None
        )
    ],
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
    default_root_dir=FOLDER,
)
gather(trainer, lambda: "a: config\n")
with together(trainer):
    trainer.fit(phase)
# One write: the processes share this output, and a line in pieces may be cut by the other's.
os.write(1, f"process {trainer.global_rank} is done\n".encode())
sys.exit(0)
