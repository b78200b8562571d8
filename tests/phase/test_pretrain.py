"""Pretraining with reference pictures: what a step learns from, and settings that cannot be."""

from __future__ import annotations

import pytest
import torch

from diffopd.check import ConfigError
from diffopd.data.drawings import DrawingBatch
from diffopd.model.untrained import pipeline_to_train
from diffopd.phase.pretrain_rows import Shown
from diffopd.phase.pretrain_rows import shown as shown_at

BATCH = DrawingBatch(0, (0, 1, 2, 3, 4, 5), range(6))


@pytest.fixture(scope="module")
def phase(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    phase = world.build("mini_klein_pretrain", folder, "phase.num_drawings=8").phase
    phase.on_fit_start()
    phase.logged = {}
    phase.log_dict = lambda values, **_: phase.logged.update(values)
    return phase


def test_every_third_sample_has_each_kind_of_reference(phase):
    seen = []
    velocity = phase.family.velocity

    def watched(latent, sigma, texts, references):
        seen.append((texts, references))
        return velocity(latent, sigma, texts, references)

    phase.family.velocity = watched
    try:
        loss = phase.training_step(BATCH, 0)
    finally:
        phase.family.velocity = velocity
    (alone, nothing), (shown, references) = seen
    assert nothing is None
    assert (len(alone), len(shown), len(references)) == (2, 4, 4)
    kinds = [shown_at(position, phase.shares) for position in range(6)]
    parts = [phase.logged[f"train/loss_{kind.value}"] * kinds.count(kind) / 6 for kind in Shown]
    assert torch.allclose(torch.stack(parts).sum(), loss.detach(), rtol=1e-5)
    loss.backward()
    gradients = [p.grad for p in phase.trained.parameters() if p.grad is not None]
    assert sum(float(g.norm()) for g in gradients) > 0
    assert all(p.grad is None for p in phase.pipeline.text_encoder.parameters())


def test_the_loss_of_shares_adds_up_over_processes(phase):
    whole = phase.training_step(BATCH, 0).detach()
    halves = [
        phase.training_step(DrawingBatch(0, BATCH.everyone, rows), 0).detach()
        for rows in (range(3), range(3, 6))
    ]
    assert torch.allclose(torch.stack(halves).mean(), whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("experiment", "settings", "message"),
    [
        ("mini_pretrain", ("phase.copy_share=0.5",), "which this pipeline does not read"),
        ("mini_klein_pretrain", ("phase.copy_share=0.8",), "add up to more than 1"),
        ("mini_klein_pretrain", ("phase.figure_share=0",), "needs drawings of figures"),
    ],
)
def test_shares_that_cannot_be_are_errors(world, tmp_path, experiment, settings, message):
    with pytest.raises(ConfigError, match=message):
        world.build(experiment, tmp_path / "run", *settings)


def test_a_pipeline_of_another_kind_is_not_trained_whole(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        ValueError, match="only a StableDiffusion3Pipeline or a Flux2KleinPipeline is trained"
    ):
        pipeline_to_train(path=str(tmp_path))
