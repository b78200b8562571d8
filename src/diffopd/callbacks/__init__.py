"""What watches a training: progress, guards, timing, checkpoints. One round is one Lightning epoch."""

from diffopd.callbacks.adapter_export import AdapterExport, exported_adapter
from diffopd.callbacks.context_probe import ContextProbe
from diffopd.callbacks.csv_logger import ResumableCSVLogger
from diffopd.callbacks.finite_loss import FiniteLoss
from diffopd.callbacks.gradient_signal import GradientSignal
from diffopd.callbacks.leak_test import LeakTest
from diffopd.callbacks.pipeline_export import PipelineExport
from diffopd.callbacks.reward_guard import RewardGuard
from diffopd.callbacks.round_checkpoint import RoundCheckpoint
from diffopd.callbacks.round_progress import RoundProgress
from diffopd.callbacks.samples import Samples
from diffopd.callbacks.throughput import Throughput

__all__ = [
    "AdapterExport",
    "ContextProbe",
    "FiniteLoss",
    "GradientSignal",
    "LeakTest",
    "PipelineExport",
    "ResumableCSVLogger",
    "RewardGuard",
    "RoundCheckpoint",
    "RoundProgress",
    "Samples",
    "Throughput",
    "exported_adapter",
]
