"""Style and substance of students, as the page of the ablation ``factors`` has them."""

from __future__ import annotations

import pytest

from support.report_page import page_of
from support.tiny_runs import TASKS


@pytest.mark.slow
def test_a_page_says_how_much_of_a_gain_over_the_base_is_style(world, tmp_path):
    """Two seeds of a round; the base's values are those of the runs' own reports."""
    few = [f"benchmark.tasks.{task}.num_prompts=2" for task in TASKS]
    few += ["benchmark.sampler.num_steps=2", "benchmark.held_out.frechet.reference.number=8"]
    few += ["report.prompts_searched=2", "report.rows_per_task=1", "trainer.max_epochs=1"]
    for seed in (0, 1):
        own = ("benchmark=mini_factors", "name=factors_aesthetic", f"seed={seed}")
        world.build("sopd_aesthetic", tmp_path / f"seed{seed}", *own, *few).run()
    page = page_of(tmp_path, "claims=factors", "benchmark_name=mini_factors")
    for what in ("style", "substance"):
        _, _, claim = page.partition(f'<tr id="claim-aesthetic_{what}-1">')
        told = claim.partition("</tr>")[0]
        assert f"gains {what} over the base model" in told
        assert "not decidable" not in told
    for column in ("style: contrast", "style: palette", "substance: what was asked, by likeness"):
        assert f"{column}\u00a0↑" in page
