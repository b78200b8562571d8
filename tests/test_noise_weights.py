"""What Eq. 11 and 12 say of noise levels: by hand, and as the page on it prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from diffopd.jobs.cells import CLAIMS
from diffopd.loss import ReverseKL, ReverseKLAt, reverse_kl_at_weight
from diffopd.report.methods.claims import read_claims
from support.scripts import experiment_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    return experiment_script("noise_weights")


def test_the_page_has_the_table_that_the_script_prints(script):
    page = (ROOT / "docs" / "noise_level.md").read_text(encoding="utf-8")
    assert script.table() in page
    shares = {level: script.weights(level) / script.weights(level).sum() for level in (0.0, 0.7)}
    last = [f"{100 * share[-1]:.0f} %" for share in shares.values()]
    first = [f"{100 * share[:5].sum():.0f} %" for share in shares.values()]
    text = " ".join(page.split())
    assert f"the last trained step has {last[0]} of the weight, then {last[1]}" in text
    assert f"the first five have {first[0]}, then {first[1]}" in text
    factors = [(1 + a**2 / 2) ** 2 / a**2 for a in (0.3, 0.7, 1.0)]
    assert "{:.1f} at 0.3, {:.2f} at 0.7, {:.2f} at 1".format(*factors) in text


@pytest.mark.parametrize("level", [0.3, 0.7, 1.0])
def test_the_noise_level_is_one_factor_for_all_steps_but_the_first(script, level):
    steps = script.trained_steps(level)
    s = torch.stack([step.sigma[0] for step in steps]).double()
    t = torch.stack([step.sigma_next[0] for step in steps]).double()
    by_hand = (1 + level**2 / 2) ** 2 / level**2 * (s - t) * (1 - s) / (2 * s)
    assert script.weights(level)[1:] == pytest.approx(by_hand[1:], rel=1e-5)
    # At sigma 1 the deviation is the noise level and the slope dt, with (1 - s) / s taken at the next level.
    assert script.weights(level)[0].item() == pytest.approx((1 - t[0]).item() ** 2 / (2 * level**2), rel=1e-5)


def test_weights_of_another_noise_level_are_its_own_rollouts_weights(script):
    noisy, plain = script.trained_steps(0.7), script.trained_steps(0.0)
    exact = ReverseKL(reduction="mean", normalize=False)
    other = ReverseKLAt(reduction="mean", normalize=False, noise_level=0.7)
    for ours, theirs in zip(noisy, plain, strict=True):
        assert other.weight(theirs) == pytest.approx(exact.weight(ours), rel=1e-5)
    # From 0.5 to 0.4 at noise 1: slope -0.15, variance 0.1, so 0.0225 / 0.2.
    sigmas = torch.tensor([0.5]), torch.tensor([0.4])
    assert reverse_kl_at_weight(*sigmas, noise_level=1) == pytest.approx(0.1125)
    with pytest.raises(ValueError, match=r"loss\.noise_level must be a finite number above 0, got 0"):
        ReverseKLAt(reduction="mean", normalize=False, noise_level=0)


def test_every_claim_about_noise_is_read_by_the_page(script):
    claims = read_claims(yaml.safe_load((ROOT / "conf" / "claims" / "noise.yaml").read_text()))
    rules = (ROOT / "docs" / "noise_level.md").read_text().partition("| Verdicts | Reading |")[2]
    named = set(re.findall(r"`(\w+)`", rules)) | {"states_by_eq_12", "states_by_eq_11", "weights_on_07"}
    assert {claim.id for claim in claims} <= named
    for file, claimed in CLAIMS.items():
        assert (ROOT / "conf" / "claims" / f"{claimed}.yaml").is_file(), file
