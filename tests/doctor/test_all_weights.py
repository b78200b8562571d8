"""What full fine-tuning takes, counted before anything is loaded."""

from __future__ import annotations

import pytest
from diffusers import SD3Transformer2DModel

from diffopd.check.values import plain_values
from diffopd.doctor import all_weights
from diffopd.doctor.all_weights import all_weights_findings
from diffopd.doctor.finding import Level


@pytest.fixture
def found(world, tmp_path):
    def findings(experiment, *overrides):
        return list(all_weights_findings(plain_values(world.config(experiment, tmp_path, *overrides))))

    return findings


def test_every_copy_gradient_and_mean_is_counted(world, found, monkeypatch):
    """In values of 4 bytes: base, student, gradient, two means, average; and what the phase keeps besides."""
    transformer = SD3Transformer2DModel.from_pretrained(world.pipeline / "transformer")
    size = 4 * sum(value.numel() for value in transformer.state_dict().values())
    monkeypatch.setattr(all_weights, "GIB", 1)  # the tiny model in whole bytes
    for experiment, copies in {"mopd_ode": 6, "teacher_aesthetic": 7, "mopd_dmd": 10}.items():
        (finding,) = found(experiment, "adapter=full")
        assert finding.text.startswith(f"{copies * size:.2f} GiB per process")
        assert finding.level is Level.FINE
    (shared,) = found("mopd_ode", "adapter=full", "trainer=sharded")
    assert shared.text.startswith(f"{3 * size:.2f} GiB per process")
    (whole,) = found("mopd_ode", "adapter=full", "trainer=ddp")
    assert whole.text.startswith(f"{6 * size:.2f} GiB per process")


def test_a_run_that_cannot_fit_fails_before_it_is_tried(found, monkeypatch):
    monkeypatch.setattr(all_weights, "memory_bytes", lambda: 1000)
    (finding,) = found("mopd_ode", "adapter=full", "trainer.accelerator=cpu")
    assert finding.level is Level.FAILURE
    assert finding.text.endswith(
        "choose trainer=sharded, which divides them among processes, or adapter=lora"
    )
    (shared,) = found("mopd_ode", "adapter=full", "trainer=sharded", "trainer.accelerator=cpu")
    assert shared.text.endswith("choose more processes, or adapter=lora")


def test_an_adapter_is_not_counted(found):
    assert found("mopd_ode") == []
