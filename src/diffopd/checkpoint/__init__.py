"""Checkpoints as folders of safetensors and JSON: no pickle, written atomically, verified when read."""

from diffopd.checkpoint.folder import (
    ADAPTER,
    CheckpointError,
    DamagedCheckpointError,
    latest_valid_checkpoint,
    read_checkpoint,
    read_inputs,
    read_settings,
    round_of,
    verify_checkpoint,
    write_checkpoint,
)
from diffopd.checkpoint.lightning_io import SafetensorsCheckpointIO
from diffopd.checkpoint.place import checkpoints_folder
from diffopd.checkpoint.tree import decode_tree, encode_tree

__all__ = [
    "ADAPTER",
    "CheckpointError",
    "DamagedCheckpointError",
    "SafetensorsCheckpointIO",
    "checkpoints_folder",
    "decode_tree",
    "encode_tree",
    "latest_valid_checkpoint",
    "read_checkpoint",
    "read_inputs",
    "read_settings",
    "round_of",
    "verify_checkpoint",
    "write_checkpoint",
]
