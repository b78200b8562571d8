"""What the export at the end of a run says of a run without an update."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from diffopd.callbacks.adapter_export import AdapterExport


@pytest.mark.parametrize(
    ("updates", "told"),
    [(0, "no update was made"), (3, "the average has not moved yet: phase.ema.update_interval=8")],
)
def test_a_run_without_an_update_is_not_told_to_train_longer(tmp_path, caplog, updates, told):
    """Neither is a measurement, which trains nothing."""
    policy = SimpleNamespace(name="student", save=lambda folder: folder.mkdir())
    phase: Any = SimpleNamespace(handed_on=lambda wanted: policy, ema=SimpleNamespace(update_interval=8))
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=updates)
    export = AdapterExport(
        adapter="average", peft_folder=str(tmp_path / "peft"), lora_folder=str(tmp_path / "lora")
    )
    with caplog.at_level(logging.INFO):
        export.on_train_end(trainer, phase)
    assert caplog.messages[0].startswith(told)
    assert (tmp_path / "peft").is_dir()
