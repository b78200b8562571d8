"""Low-rank adapters: add, choose what is trained, average, save, load, export."""

from diffopd.adapter.check import WEIGHTS, check_adapter, check_start, read_adapter_config
from diffopd.adapter.ema import EMA, blend, ema_decay, old_policy_decay, ramp_decay
from diffopd.adapter.io import export_lora, load_adapter, save_adapter
from diffopd.adapter.lora import (
    LoRA,
    adapter_names,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    set_trainable,
    trainable_adapters,
)

__all__ = [
    "EMA",
    "WEIGHTS",
    "LoRA",
    "adapter_names",
    "adapter_parameters",
    "add_adapter",
    "blend",
    "check_adapter",
    "check_start",
    "copy_adapter",
    "ema_decay",
    "export_lora",
    "load_adapter",
    "old_policy_decay",
    "ramp_decay",
    "read_adapter_config",
    "save_adapter",
    "set_trainable",
    "trainable_adapters",
]
