"""Counts worked out by hand, and equal to what the phases log."""

import csv

import pytest

from diffopd.doctor.checks import prompt_findings
from diffopd.doctor.cost import Cost
from support.slow import slow_but

DISTILL = ("trainer.max_epochs=7", "phase.score_every_n_rounds=3", "reward=picture_quality")


def counts(cost):
    return {name: number for name, number in vars(cost).items() if number}


@pytest.mark.parametrize(
    ("experiment", "overrides", "expected"),
    [
        # 3 tasks x 2 prompts = 6 rows a round; rounds 0, 3 and 6 are scored.
        ("mopd_ode", DISTILL, {"images": 42, "reward_calls": 18, "updates": 7}),
        # One task a round: 2 rows.
        ("mopd_ode", (*DISTILL, "data.schedule=alternate"), {"images": 14, "reward_calls": 6, "updates": 7}),
        # Four candidates of each of 6 rows, all scored, and 6 more in rounds 0, 3 and 6.
        (
            "mopd_sft",
            (*DISTILL, "phase.best_of_n=4"),
            {"images": 168, "reward_calls": 186, "updates": 7},
        ),
        (
            "mopd_dmd",
            (*DISTILL, "phase.fake_updates_per_round=5"),
            {"images": 42, "reward_calls": 18, "updates": 7, "fake_updates": 35},
        ),
        # 2 prompts x 3 samples; one held-out reward.
        (
            "teacher_aesthetic",
            ("trainer.max_epochs=7", "phase.updates_per_round=3"),
            {"images": 42, "reward_calls": 42, "held_out_calls": 42, "updates": 21},
        ),
        ("mini_pretrain", ("trainer.max_epochs=7", "data.batches_per_round=4"), {"updates": 28}),
        ("gradient_variance", (), {}),
    ],
)  # fmt: skip
def test_counts_by_hand(plan, experiment, overrides, expected):
    assert counts(plan(experiment, *overrides).cost) == expected


def test_automatic_routing_scores_every_teacher_first(plan):
    cost = plan("mopd_ode", *DISTILL, "routing=automatic", "routing.num_prompts=5").cost
    assert cost.reward_calls == 18 + 5 * 3 * 3  # prompts, tasks, teachers


@pytest.mark.parametrize("experiment", slow_but(["mopd_sde", "teacher_aesthetic"], "mopd_sde"))
def test_what_is_planned_is_what_is_logged(plan, world, tmp_path, experiment):
    overrides = ("reward=picture_quality", "trainer.max_epochs=2")
    planned = plan(experiment, *overrides)
    trained = world.build(experiment, tmp_path / "run", *overrides)
    trained.fit()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    logged = {
        name: sum(float(line[f"train/cost/{name}"] or 0) for line in lines)
        for name in ("images", "reward_calls")
    }
    assert logged == {"images": planned.cost.images, "reward_calls": planned.cost.reward_calls}
    assert trained.trainer.global_step == planned.cost.updates


def test_a_phase_of_ones_own_has_no_counts(plan):
    values = plan("mopd_ode").values
    own = {**values, "phase": {**values["phase"], "_target_": "mine.Phase"}}
    from diffopd.doctor.cost import run_cost

    assert run_cost(own) is None
    assert Cost(images=1) + Cost(images=2, updates=3) == Cost(images=3, updates=3)


def test_the_plan_says_what_is_going_to_happen(plan, world):
    told = dict(plan("mopd_ode", *DISTILL, "sampler.noise_level=0.7", "trainer.devices=2").lines())
    assert told["run"].startswith("mopd_ode, DistillPhase, in ")
    assert told["model"].startswith(str(world.pipeline))
    assert told["adapter"] == "rank 2, alpha 4, starts as the base model"
    assert told["teacher ocr"].endswith("the guidance in its card.json")
    assert told["task ocr"] == "100 prompts, 2 per round, group size 1"
    assert told["sampling"] == "10 steps, noise level 0.7, guidance 1"
    assert told["rounds"] == "7 of 6 samples shared by 2 processes"
    assert (told["images"], told["reward calls"], told["updates"]) == ("42", "18", "7")
    assert told["checkpoints"] == "every round, 2 kept"


def test_rounds_that_do_more_are_counted(plan):
    both = plan("mopd_ode", *DISTILL, "phase.conflict_every_n_rounds=2")
    assert both.fuller_rounds == 5  # 0, 2, 3, 4, 6
    never = plan("mopd_ode", *DISTILL, "phase.score_every_n_rounds=0", "phase.conflict_every_n_rounds=0")
    assert never.fuller_rounds == 0


def test_a_run_on_pictures_is_planned(plan):
    found = plan("sft_pairs", "data.prompts_per_round=8", "data.group_size=2", "model.image_size=[32,16]")
    lines = dict(found.lines())
    assert lines["task pictures"] == "4 pictures, 8 per round, group size 2"
    assert "32 x 16 pixels" in lines["model"]
    assert not {"reward", "images"} & set(lines)
    assert (found.rows_per_round, found.cost.updates, found.cost.images) == (16, 2, 0)
    (said,) = prompt_findings(found)
    assert said.text == "a round takes 8 pictures of pictures, there are 4, so some are used twice in a round"


@pytest.mark.parametrize(
    ("experiment", "images"),
    slow_but(
        [("pso_pairs", 4), ("dpo_pairs", 0), ("offpolicy_pairs", 0), ("dreambooth_pairs", 3)],
        ("pso_pairs", 4),
    ),
)
def test_what_baselines_of_pictures_draw_is_planned(plan, experiment, images):
    """Two rounds of two pictures: samples to prefer them to, none, or class pictures."""
    cost = plan(experiment).cost
    assert (cost.images, cost.updates, cost.reward_calls) == (images, 2, 0)
