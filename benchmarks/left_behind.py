"""What a training left, bit by bit, and what a killed one lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from diffopd.checkpoint import encode_tree, latest_valid_checkpoint, read_checkpoint
from diffopd.run.metrics_csv import EPOCH, METRICS, read_intact_rows
from diffopd.run.resume import FINISHED

UNREPEATABLE = ("train/time/", "train/memory/")
"""Metrics that no two trainings have in common."""


def what_is_left(folder: Path) -> dict[str, Any]:
    """Everything a finished training left that has to be the same, by name."""
    left: dict[str, Any] = {}
    for run_folder in sorted(path.parent for path in folder.rglob(FINISHED)):
        name = run_folder.relative_to(folder)
        newest = latest_valid_checkpoint(run_folder / "checkpoints")
        assert newest is not None, f"{run_folder} holds no checkpoint"
        state = read_checkpoint(newest)
        state["callbacks"] = {
            k: v for k, v in state["callbacks"].items() if not k.startswith("RoundCheckpoint")
        }
        numbers, tensors = encode_tree({"round": newest.name, **state})
        # a stage's settings name the adapter of the one before by its path
        left[f"{name}: counters"] = json.dumps(numbers, sort_keys=True).replace(str(folder), "")
        left |= {f"{name}: {key}": _bits(tensor) for key, tensor in tensors.items()}
        left[f"{name}: metrics.csv"] = _metrics(run_folder)
    for file in folder.rglob("*.safetensors"):
        if "checkpoints" not in file.parts:  # by tensor: the order in a file's header is not fixed
            tensors = load_file(file)
            left |= {f"{file.relative_to(folder)}: {key}": _bits(tensor) for key, tensor in tensors.items()}
    return left


def _bits(tensor: torch.Tensor) -> str:
    return _sha256(
        f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.flatten().view(torch.uint8).numpy().tobytes()
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _metrics(folder: Path) -> list[dict[str, str]]:
    """Every logged line; of times and memory only that they are there."""
    rows, num_damaged = read_intact_rows(folder / METRICS)
    assert not num_damaged, f"{folder / METRICS} has {num_damaged} damaged rows"
    return [
        {name: "logged" if name.startswith(UNREPEATABLE) else value for name, value in row.items()}
        for row in rows
    ]


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what differs, or is in one of them alone."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def lost_rounds(folder: Path) -> int:
    """Rounds that were begun, if only in part, and are not in the newest checkpoint of the run under way."""
    logs = sorted(folder.rglob(METRICS), key=lambda path: path.stat().st_mtime)
    if not logs:
        return 0
    rounds = [int(float(row[EPOCH])) + 1 for row in read_intact_rows(logs[-1])[0] if EPOCH in row]
    newest = latest_valid_checkpoint(logs[-1].parent / "checkpoints")
    saved = int(newest.name.removeprefix("round_")) if newest else 0
    return max([*rounds, saved]) - saved
