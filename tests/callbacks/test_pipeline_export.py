"""A whole pipeline of what a run trained, loaded by its library alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from diffopd.check import ConfigError

EXPORT = "callbacks=[default,pipeline_export]"


def test_a_distilled_pipeline_draws_and_edits_without_our_code(world, tmp_path):
    run = world.build("mini_klein_distil", tmp_path / "run", "trainer.max_epochs=1")
    run.fit()
    pipeline = Flux2KleinPipeline.from_pretrained(tmp_path / "run" / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.config.is_distilled
    trained = run.phase.policies["student"].transformer.state_dict()
    base = run.phase.model.transformer.state_dict()
    saved = pipeline.transformer.state_dict()
    averaged = run.phase.policies["average"].transformer.state_dict()
    assert all(torch.equal(saved[key], averaged[key]) for key in trained)
    assert any(not torch.equal(saved[key], base[key]) for key in trained)
    size = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 4,
        "generator": torch.Generator().manual_seed(0),
    }
    drawn = pipeline(prompt="a photo of a red circle", **size).images[0]
    edited = pipeline(prompt="the same figure", image=drawn, **size).images[0]
    assert drawn.size == edited.size == (64, 64)
    assert isinstance(drawn, Image.Image)


def test_a_run_that_trains_an_adapter_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match="set adapter=full, or export the adapter afterwards"):
        world.build("mopd_ode", tmp_path / "run", EXPORT, "reward=picture_quality").fit()
