"""The pull to an anchor counts by its weight."""

from __future__ import annotations

from support.tiny_runs import relative_distance, run_rounds

SHORT = (
    "trainer.max_epochs=1",
    "reward=picture_quality",
    "phase.score_every_n_rounds=0",
    "sampler.num_steps=3",
)


def test_the_anchors_gradient_is_added_times_its_weight(world, tmp_path):
    def gradient(name, *settings):
        return run_rounds(world.build("mopd_ode", tmp_path / name, *SHORT, *settings)).flat_gradient()

    without = gradient("without")
    once, thrice = (
        gradient(str(weight), "regulariser=anchor", f"regulariser.weight={weight}") - without
        for weight in (1, 3)
    )
    assert once.norm() > 0
    assert relative_distance(thrice, 3 * once) < 1e-4
