"""Low-rank adapters: add, choose what is trained, average, save, load, export."""

from diffopd.adapter.check import WEIGHTS, check_adapter, check_start, read_adapter_config
from diffopd.adapter.ema import EMA, blend, ema_decay, old_policy_decay, ramp_decay
from diffopd.adapter.io import add_merged_adapter, export_lora, load_adapter, save_adapter
from diffopd.adapter.lora import (
    LoRA,
    adapter_names,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    set_trainable,
    trainable_adapters,
)
from diffopd.adapter.merge import MergeError, MergePart, MergePlan, merge_adapters, merge_error

__all__ = [
    "EMA",
    "WEIGHTS",
    "LoRA",
    "MergeError",
    "MergePart",
    "MergePlan",
    "adapter_names",
    "adapter_parameters",
    "add_adapter",
    "add_merged_adapter",
    "blend",
    "check_adapter",
    "check_start",
    "copy_adapter",
    "ema_decay",
    "export_lora",
    "load_adapter",
    "merge_adapters",
    "merge_error",
    "old_policy_decay",
    "ramp_decay",
    "read_adapter_config",
    "save_adapter",
    "set_trainable",
    "trainable_adapters",
]
