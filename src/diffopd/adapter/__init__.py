"""Low-rank adapters: add, choose what is trained, average, save, load, export."""

from diffopd.adapter.check import check_adapter, check_start, weightless
from diffopd.adapter.ema import EMA, blend, blend_in_bf16, ema_decay, old_policy_decay, ramp_decay
from diffopd.adapter.io import (
    add_merged_adapter,
    add_started_adapter,
    export_lora,
    load_adapter,
    save_adapter,
)
from diffopd.adapter.location import CARD_FILE, WEIGHTS, Place, find_card, find_place
from diffopd.adapter.lora import (
    LoRA,
    adapter_names,
    adapter_parameters,
    adapter_strength,
    add_adapter,
    copy_adapter,
    set_trainable,
    trainable_adapters,
)
from diffopd.adapter.merge import MergeError, MergePart, MergePlan, merge_adapters, merge_error
from diffopd.adapter.safe_file import read_shapes
from diffopd.adapter.shape import Shape

__all__ = [
    "CARD_FILE",
    "EMA",
    "WEIGHTS",
    "LoRA",
    "MergeError",
    "MergePart",
    "MergePlan",
    "Place",
    "Shape",
    "adapter_names",
    "adapter_parameters",
    "adapter_strength",
    "add_adapter",
    "add_merged_adapter",
    "add_started_adapter",
    "blend",
    "blend_in_bf16",
    "check_adapter",
    "check_start",
    "copy_adapter",
    "ema_decay",
    "export_lora",
    "find_card",
    "find_place",
    "load_adapter",
    "merge_adapters",
    "merge_error",
    "old_policy_decay",
    "ramp_decay",
    "read_shapes",
    "save_adapter",
    "set_trainable",
    "trainable_adapters",
    "weightless",
]
