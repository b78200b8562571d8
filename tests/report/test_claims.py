"""Verdicts on claims: intervals, levels and areas by hand."""

from __future__ import annotations

import json

import pytest
from scipy.stats import ttest_ind

from diffopd.files.sealed import write_sealed_json
from diffopd.report.methods.claims import read_claims
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.measured import Measuring
from diffopd.report.methods.methods import group_runs
from diffopd.report.methods.verdicts import judge as judge_all
from support.run_folders import result, write_run

MEASURING = Measuring(benchmark="mini", window=1)


def claim(**fields):
    entry = {
        "figure": "Figure 5",
        "text": "a beats b",
        "method": "a",
        "against": "b",
        "task": None,
        "level": None,
        "margin": None,
    }
    return read_claims({"one": {"metric": "final_score"} | entry | fields})[0]


def judge(one, methods, measuring, **options):
    (verdict,) = judge_all([one], methods, measuring, **options)
    return verdict


def methods_of(folder, **rewards_and_scores):
    """Methods ``a``, ``b``: lists of (rewards of task ocr, score of task ocr), one per seed."""
    for name, seeds in rewards_and_scores.items():
        for seed, (rewards, score) in enumerate(seeds):
            scores = None if score is None else {"ocr": score}
            write_run(folder / name / f"seed{seed}", name, seed, {"train/reward/ocr": rewards}, scores=scores)
    return group_runs(find_runs([str(folder)]), {}, include_unfinished=False)


def scored(*scores):
    return [([0.0], score) for score in scores]


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((0.8, 0.9, 1.0), (0.5, 0.7, 0.6), "holds"),  # 0.3, error 0.0816, 4 degrees of freedom: p = .021
        ((0.5, 0.7, 0.6), (0.8, 0.9, 1.0), "does not hold"),
        ((0.8, 0.6, 1.0), (0.5, 0.7, 0.6), "open at 3 seeds"),  # 0.2, error 0.129, p = .21
        ((0.5, 0.5), (0.5, 0.5), "open at 2 seeds"),
        ((0.8, 0.9, 1.0), (0.5,), "not decidable at 1 seed"),
        ((0.8, 0.9), (), "not decidable at 0 seeds"),
    ],
)
def test_verdicts(tmp_path, first, second, outcome):
    verdict = judge(claim(), methods_of(tmp_path, a=scored(*first), b=scored(*second)), MEASURING)
    assert verdict.outcome == outcome


def test_a_score_that_is_missing_is_named(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.8, None), b=scored(0.5, 0.6))
    verdict = judge(claim(), methods, MEASURING)
    assert (verdict.outcome, verdict.reason) == (
        "not decidable at 2 seeds",
        "a, seed 1 has no scores on mini at guidance 1",
    )


def with_held_out(folder, own_base=None, **seeds):
    """Methods with lists of (style, substance) at guidance 1; the base in the runs' own tables."""
    for name, values in seeds.items():
        for seed, (style, substance) in enumerate(values):
            place = write_run(folder / name / f"seed{seed}", name, seed, {"train/reward/ocr": [0.0]})
            held_out = {"style": {"value": style, "num_images": 192}, "distance": {"frechet_distance": 1.0}}
            held_out["substance"] = {"value": substance, "num_images": 192}
            result({"ocr": 0.5}, held_out=held_out).save(place / "report" / "student_guidance_1.json")
            if own_base is not None:
                known = dict(zip(("style", "substance"), own_base, strict=True))
                entries = {what: {"value": v, "n": 192, "better": "higher"} for what, v in known.items()}
                row = {"name": "base", "guidance_scale": 1.0, "scores": {}, "held_out": entries}
                table = {"title": "mini: teachers and student", "rows": [row], "gain_kept": {}}
                write_sealed_json(place / "report" / "table.json", table)
    return group_runs(find_runs([str(folder)]), {}, include_unfinished=False)


def test_what_is_not_used_for_training_is_compared_by_the_mean_of_what_is_named(tmp_path):
    methods = with_held_out(tmp_path, a=[(0.6, 0.4), (0.7, 0.5)], b=[(0.2, 0.4), (0.3, 0.4)])
    verdict = judge(claim(metric="held_out", task="style, substance"), methods, MEASURING)
    assert verdict.guidance == 1
    assert verdict.method.values == pytest.approx({0: 0.5, 1: 0.6})
    assert verdict.against.values == pytest.approx({0: 0.3, 1: 0.35})
    assert verdict.difference.mean == pytest.approx(0.225)
    lower = judge(claim(metric="held_out", task="style, distance"), methods, MEASURING)
    assert lower.reason == "of distance more is not better, so that no mean says more"
    absent = judge(claim(metric="held_out", task="light"), methods, MEASURING)
    assert absent.reason == "a, seed 0 has no light"


def test_the_base_of_the_runs_own_reports_is_compared_with(tmp_path):
    methods = with_held_out(tmp_path, own_base=(0.5, 0.4), a=[(0.6, 0.4), (0.62, 0.4), (0.64, 0.4)])
    style = judge(claim(metric="held_out", task="style", against="base"), methods, MEASURING)
    assert style.against.values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert (style.outcome, style.difference.mean) == ("holds", pytest.approx(0.12))
    score = judge(claim(against="base"), methods, MEASURING)  # of scores there are no single prompts
    assert score.reason == "no run is called base"


def test_what_was_trained_with_the_run_s_own_seed_makes_no_other_method(tmp_path):
    """As tables hand a row's adapter to the row of the same seed; one for all seeds is another."""
    for seed, given in ((0, 0), (1, 1), (2, 2), (3, 0)):
        settings = {"teacher": {"path": f"runs/ocr/seed{given}/adapter"}}
        write_run(tmp_path / str(seed), "a", seed, {"train/reward/ocr": [0.0]}, settings=settings)
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    assert sorted(sorted(method.runs) for method in methods) == [[0, 1, 2], [3]]


def test_leaks_are_compared_seed_by_seed_and_less_is_better(tmp_path):
    for name, rises in {"a": (0.1, 0.12), "b": (0.4, 0.42)}.items():
        for seed, rise in enumerate(rises):
            place = write_run(tmp_path / name / f"seed{seed}", name, seed, {"train/reward/ocr": [0.0]})
            (place / "leak_test.json").write_text(json.dumps({"rise": {"mean": rise}}))
    write_run(tmp_path / "c" / "seed0", "c", 0, {"train/reward/ocr": [0.0]})
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    verdict = judge(claim(metric="leak"), methods, MEASURING)
    assert (verdict.outcome, verdict.difference.mean) == ("holds", pytest.approx(0.3))
    untested = judge(claim(metric="leak", against="c"), methods, MEASURING)
    assert untested.reason == "c, seed 0 has no leak test"


def test_area_under_the_reward_over_the_rounds_both_have(tmp_path):
    # Rounds 1 to 3: (0 + 1) / 2 and (1 + 3) / 2 are 2.5 in two rounds; (1 + 1) / 2 twice.
    methods = methods_of(tmp_path, a=[([0.0, 1.0, 3.0, 9.0], None)] * 2, b=[([1.0, 1.0, 1.0], None)] * 2)
    verdict = judge(claim(metric="reward_area"), methods, MEASURING)
    assert verdict.method.values == {0: 1.25, 1: 1.25}
    assert verdict.against.values == {0: 1.0, 1: 1.0}
    assert verdict.outcome == "not decidable at 2 seeds"
    assert verdict.reason == "the seeds do not differ, so there is no error estimate"


def test_rounds_and_minutes_to_a_share_of_the_others_rise(tmp_path):
    slow = [([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0], None), ([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0], None)]
    fast = [([0.0, 0.8, 1.0], None), ([0.0, 0.9, 1.0], None)]
    methods = methods_of(tmp_path, a=fast, b=slow)
    verdict = judge(claim(metric="rounds_to_level", level=0.8), methods, MEASURING)
    assert verdict.level == pytest.approx(0.8)
    assert (verdict.method.values, verdict.against.values) == ({0: 2, 1: 2}, {0: 6, 1: 6})
    assert (verdict.ratio, verdict.outcome) == (3.0, "holds")
    assert verdict.difference.mean == 4
    # A round is known to a round, so a side's variance is 1 / 12 at least: error sqrt(2 / 12 / 2) = 0.289.
    half = 4.302653 * (2 / 12 / 2) ** 0.5  # 2 degrees of freedom
    assert (verdict.difference.low, verdict.difference.high) == pytest.approx((4 - half, 4 + half), abs=1e-5)
    minutes = judge(claim(metric="minutes_to_level", level=0.8), methods, MEASURING)
    assert minutes.method.values == {0: 2.0, 1: 2.0}  # a round takes a minute


def test_what_never_reaches_the_level_can_refute_and_not_hold(tmp_path):
    never = [([0.0, 0.1], None), ([0.0, 0.2], None)]  # counted with two rounds, which is too few
    reaches = [([*[0.0] * 10, 1.0], None), ([*[0.0] * 9, 0.5, 1.0], None)]
    methods = methods_of(tmp_path, a=never, b=reaches)
    verdict = judge(claim(metric="rounds_to_level", level=1.0), methods, MEASURING)
    assert verdict.method.unreached == [0, 1]
    assert verdict.outcome == "open at 2 seeds"
    assert verdict.reason == "seeds 0, 1 of a never reached the level"


def test_a_reward_that_does_not_rise_gives_no_level(tmp_path):
    methods = methods_of(tmp_path, a=[([0.0, 1.0], None)] * 2, b=[([1.0, 0.5], None)] * 2)
    verdict = judge(claim(metric="rounds_to_level", level=0.9), methods, MEASURING)
    assert verdict.reason == "the reward of b does not rise (1.000 to 0.500)"


def test_runs_of_one_name_with_several_settings_are_no_method_of_that_name(tmp_path):
    for seed, noise in enumerate((0.0, 0.7)):
        write_run(
            tmp_path / str(seed),
            "a",
            0,
            {"train/reward/ocr": [1.0]},
            settings={"sampler": {"noise_level": noise}},
        )
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    reason = judge(claim(), methods, MEASURING).reason
    assert reason.startswith("a is the name of runs with different settings: a, sampler.noise_level=0; a, ")
    assert reason.endswith("no run is called b")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"metric": "speed"}, "claims.one.metric=speed must be one of final_score"),
        ({"metric": "rounds_to_level"}, r"claims.one.level=None must be in \(0, 1\]"),
        ({"level": 0.5}, "claims.one.level=0.5 must be null for final_score"),
        ({"kind": "x"}, "claims.one must have figure, text, .* and has .*kind"),
        ({"margin": 0}, "claims.one.margin=0 must be a number above 0, a share such as 10 %, or null"),
        ({"margin": "ten"}, "claims.one.margin=ten must be a number above 0, a share such as 10 %, or null"),
        ({"margin": "0 %"}, "claims.one.margin=0 % must be a number above 0"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        claim(**entry)


def test_rounds_that_are_known_to_twenty_do_not_hold_by_equal_differences(tmp_path):
    """The same 20 rounds between both methods in every seed: once an interval of width 0, and `holds`."""

    def reaching(place):
        rewards = [None] * 161
        for number in range(0, 161, 20):
            rewards[number] = 0.0 if number < place else 1.0
        return rewards, None

    ours, theirs = ([reaching(place + late) for place in (100, 120, 140)] for late in (0, 20))
    methods = methods_of(tmp_path, a=ours, b=theirs)
    one = claim(metric="rounds_to_level", level=1.0)
    for test in ("welch", "paired"):
        verdict = judge(one, methods, MEASURING, test=test)
        assert (verdict.method.resolution, verdict.difference.mean) == (20, 20)
        assert verdict.outcome == "open at 3 seeds"
        assert verdict.difference.low < 0 < verdict.difference.high
    # Paired: variance 2 * 20**2 / 12 of a difference, so an error of 4.714; t of 2 degrees of freedom.
    assert verdict.difference.high == pytest.approx(20 + 4.302653 * (2 * 400 / 12 / 3) ** 0.5, abs=1e-4)


def test_p_is_adjusted_for_all_claims_of_a_page(tmp_path):
    scores = {"a": (0.8, 0.9, 1.0), "b": (0.5, 0.7, 0.6), "c": (0.81, 0.88, 1.0)}
    methods = methods_of(tmp_path, **{name: scored(*values) for name, values in scores.items()})
    entries = [claim(), claim(against="c")]
    first, second = judge_all(entries, methods, MEASURING)
    raw = [float(ttest_ind(scores["a"], scores[name], equal_var=False).pvalue) for name in "bc"]
    assert (first.p, second.p) == pytest.approx((2 * raw[0], raw[1]), abs=1e-6)
    assert first.outcome == "holds"
    many = judge_all([claim(), *[claim(against="c")] * 3], methods, MEASURING)
    assert many[0].p == pytest.approx(4 * raw[0], abs=1e-6)  # .0845
    assert many[0].outcome == "open at 3 seeds"
    assert many[0].difference.low > 0
    assert many[0].reason.startswith("its own interval excludes 0, but with so many tests")


def test_scores_are_compared_at_every_guidance_that_both_have(tmp_path):
    methods_of(tmp_path, a=scored(0.8, 0.9, 1.0), b=scored(0.5, 0.7, 0.6))
    for name, values in (("a", (0.5, 0.7, 0.6)), ("b", (0.8, 0.9, 1.0))):
        for seed, score in enumerate(values):
            place = tmp_path / name / f"seed{seed}" / "report" / "student_guidance_2.json"
            result({"ocr": score}, guidance_scale=2.0).save(place)
    result({"ocr": 0.5}, guidance_scale=3.0).save(tmp_path / "a" / "seed0" / "report" / "three.json")
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    found = judge_all([claim()], methods, MEASURING)
    assert [verdict.guidance for verdict in found] == [1.0, 2.0]
    assert [verdict.difference.mean > 0 for verdict in found] == [True, False]
    assert [verdict.p for verdict in found] == pytest.approx([2 * 0.021312] * 2, abs=1e-5)  # Holm over both


def test_no_difference_that_matters(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.80, 0.81, 0.82), b=scored(0.81, 0.80, 0.82))
    verdict = judge(claim(margin=0.05), methods, MEASURING)
    # Difference 0, error 0.01 * sqrt(2 / 3) = 0.00816, 4 degrees of freedom: p = P(t > 6.12) = .0018.
    assert verdict.p_equivalent == pytest.approx(0.0018, abs=1e-4)
    assert verdict.outcome == "no difference larger than 0.05"
    assert verdict.kind == "equal"
    open_at = judge(claim(margin=0.01), methods, MEASURING)
    # Variance 0.0002 of both sides together, margin sqrt(2) times that of one: as in test_seeds_needed.
    assert open_at.outcome == "open: 18 seeds would decide"
    assert open_at.needed.decide == 18
    assert judge(claim(), methods, MEASURING).outcome == "open at 3 seeds"


def test_a_margin_may_be_a_share_of_the_others_mean(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.80, 0.81, 0.82), b=scored(0.81, 0.80, 0.82))
    verdict = judge(claim(margin="10 %"), methods, MEASURING)
    assert verdict.margin == pytest.approx(0.081)
    assert verdict.outcome == "no difference larger than 10 % (0.081)"


def test_what_would_decide_goes_by_the_measured_difference_where_that_is_beyond_the_margin(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.8, 0.6, 1.0), b=scored(0.5, 0.7, 0.6))
    verdict = judge(claim(margin=0.02), methods, MEASURING)
    assert verdict.needed.beyond
    assert verdict.needed.seen == verdict.needed.decide < verdict.needed.difference
    assert verdict.outcome == f"open: {verdict.needed.seen} seeds would decide"


def test_the_rule_pairs_seeds_where_they_have_something_in_common(tmp_path):
    methods = methods_of(tmp_path, a=scored(0.52, 0.61, 0.71, 0.80), b=scored(0.51, 0.60, 0.69, 0.79))
    verdict = judge(claim(), methods, MEASURING)
    assert verdict.effect.pairs_help
    assert verdict.difference.num_pairs == 4
    assert judge(claim(), methods, MEASURING, test="welch").difference.num_pairs is None
    other = methods_of(tmp_path / "other", a=scored(0.8, 0.6, 0.7, 0.5), b=scored(0.5, 0.7, 0.6, 0.8))
    apart = judge(claim(), other, MEASURING)
    assert not apart.effect.pairs_help
    assert apart.difference.num_pairs is None
    assert judge(claim(), other, MEASURING, test="paired").difference.num_pairs == 4


def test_scores_of_other_prompts_are_not_compared(tmp_path):
    methods_of(tmp_path, a=scored(0.8, 0.9), b=scored(0.5, 0.6))
    for seed in (0, 1):
        place = tmp_path / "b" / f"seed{seed}" / "report" / "student_guidance_1.json"
        result({"ocr": 0.5 + seed / 10}, prompts="another").save(place)
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    verdict = judge(claim(), methods, MEASURING)
    assert verdict.reason == "a and b were scored with different settings: ocr: other prompts"


def test_prompts_are_drawn_too(tmp_path):
    """Seeds agree to the digit almost; half the prompts speak for a, half for b."""
    methods_of(tmp_path, a=scored(0.7, 0.7, 0.7), b=scored(0.5, 0.5, 0.5))
    for name, images in (("a", [1.0, 0.4] * 32), ("b", [0.0, 1.0] * 32)):
        for seed in range(3):
            place = tmp_path / name / f"seed{seed}" / "report" / "student_guidance_1.json"
            result({"ocr": 0.5}, by_prompt={"ocr": images}).save(place)
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    verdict = judge(claim(), methods, MEASURING)
    assert verdict.reason == "the interval includes 0; Welch, seeds and prompts as drawn"
    # Differences 1 and -0.6, each in 32 of 64 prompts: variance 0.64 * 64 / 63, over 64 prompts.
    error = (0.64 / 63 + 2 * (1 / 64) ** 2 / 12 / 3) ** 0.5
    assert verdict.difference.high - verdict.difference.mean == pytest.approx(1.998 * error, abs=1e-3)


def test_a_test_that_is_not_known_is_named(tmp_path):
    with pytest.raises(ValueError, match="test=anova must be one of by_rule, welch, paired"):
        judge_all([claim()], [], MEASURING, test="anova")


def test_a_single_prompt_has_no_variance_to_be_drawn_from(tmp_path):
    methods_of(tmp_path, a=scored(0.8, 0.9, 1.0), b=scored(0.5, 0.7, 0.6))
    for name, values in (("a", (0.8, 0.9, 1.0)), ("b", (0.5, 0.7, 0.6))):
        for seed, value in enumerate(values):
            place = tmp_path / name / f"seed{seed}" / "report" / "student_guidance_1.json"
            result({"ocr": 0.5}, by_prompt={"ocr": [value]}).save(place)
    methods = group_runs(find_runs([str(tmp_path)]), {}, include_unfinished=False)
    verdict = judge(claim(), methods, MEASURING)
    assert not verdict.difference.over_prompts
    assert "Welch, seeds as drawn" in verdict.reason
    # One image is a step of 1, so each side's variance is 1 / 12 at least.
    half = 2.776445 * (2 / 12 / 3) ** 0.5
    assert verdict.difference.high == pytest.approx(0.3 + half, abs=1e-5)
