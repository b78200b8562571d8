"""Online DPO: pairs by hand, one round worked by hand, prompts whose samples are alike."""

from __future__ import annotations

import pytest
import torch

from diffopd.phase.online_dpo import Pairs, best_and_worst
from support.tiny_runs import randomise, relative_distance, run_rounds

N, BETA = 3, 30.0


def test_the_best_and_the_worst_of_each_prompt_of_each_task():
    rewards = torch.tensor([0.1, 0.7, 0.4, 0.5, 0.5, 0.9, 0.2])
    groups, tasks = [0, 0, 0, 1, 1, 0, 0], ["ocr"] * 5 + ["aesthetic"] * 2
    assert best_and_worst(rewards, groups, tasks) == Pairs([1, 3, 5], [0, 3, 6], [False, True, False])


def redness(images, prompts):
    """Told apart by a sample's own pixels, so that no two are alike."""
    return images[:, 0].mean((1, 2))


def test_a_round_worked_by_hand(world, tmp_path):
    """``-log sigmoid(beta ((e_ref(w) - e(w)) - (e_ref(l) - e(l))))`` on the grid, one noise each."""
    run = world.build(
        "online_dpo_aesthetic",
        tmp_path / "run",
        *("trainer.max_epochs=1", f"sampler.num_steps={N}", f"loss.beta={BETA}"),
        *("phase.num_timesteps=2", "phase.updates_per_round=1", "phase.micro_batch_size=3"),
    )
    phase, prompts = run.phase, run.data.batch(0)
    phase.reward = redness
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)
    given = phase.conditioning(prompts)
    clean = phase.noise("rollout/start", prompts)
    for step in range(N):
        sigma = sigmas[step].expand(len(prompts))
        with torch.no_grad():
            velocity = model.velocity(clean, sigma, given, "student")
        clean = clean + (sigmas[step + 1] - sigmas[step]) * velocity
    rewards = redness(phase.images(clean), prompts)
    pairs = [
        (max(rows, key=lambda row: rewards[row]), min(rows, key=lambda row: rewards[row]))
        for group in dict.fromkeys(prompts.groups)
        for rows in [[row for row, other in enumerate(prompts.groups) if other == group]]
    ]
    best, worst = map(list, zip(*pairs, strict=True))
    chosen, told = prompts.select(best), given.select(best)
    margins = []
    for number in range(2):
        sigma, noise = phase.sigmas(number, chosen), phase.noise(f"online_dpo/noise/{number}", chosen)
        assert set(sigma.tolist()) <= set(sigmas[:-1].tolist())
        level = sigma[:, None, None, None]

        def gain(picture, sigma=sigma, noise=noise, level=level):
            latent = (1 - level) * picture + level * noise

            def error(name):
                velocity = model.velocity(latent, sigma, told, name)
                return (velocity - (noise - picture)).square().flatten(1).mean(1)

            with torch.no_grad():
                reference = error(None)
            return reference - error("student")

        margins.append(gain(clean[best]) - gain(clean[worst]))
    margin = torch.stack(margins)
    total = (1 + (-BETA * margin).exp()).log().mean()
    gradient = torch.autograd.grad(total, list(phase.student.weights().values()))
    rounds = run_rounds(run)
    logged = rounds.metrics
    assert logged["train/loss/preference"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert logged["train/preference/margin"] == pytest.approx(float(margin.detach().mean()), rel=1e-3)
    assert logged["train/preference/won_share"] == pytest.approx(float((margin > 0).float().mean()))
    assert logged["train/preference/tied_share"] == 0
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in gradient])) < 1e-3
    samples = len(prompts)
    assert (logged["train/cost/images"], logged["train/cost/reward_calls"]) == (samples, samples)
    # The rollout, and two pictures of each pair at two levels by policy and reference.
    assert logged["train/cost/forwards"] == N * samples + 2 * 2 * 2 * len(best)


@pytest.mark.slow
def test_prompts_whose_samples_are_alike_teach_nothing(world, tmp_path):
    run = world.build("online_dpo_aesthetic", tmp_path / "run", "trainer.max_epochs=1", "sampler.num_steps=5")
    run.phase.reward = lambda images, prompts: torch.full((len(images),), 0.5)
    rounds = run_rounds(run)
    assert rounds.metrics["train/preference/tied_share"] == 1
    assert all(not gradient.any() for of_update in rounds.gradients for gradient in of_update.values())


def test_levels_are_shared_among_the_updates(world, tmp_path):
    with pytest.raises(Exception, match=r"num_timesteps=3 must be a multiple of phase\.updates_per_round=2"):
        world.build(
            *("online_dpo_ocr", tmp_path / "run"), "phase.num_timesteps=3", "phase.updates_per_round=2"
        )
