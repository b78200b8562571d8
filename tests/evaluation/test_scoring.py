import dataclasses
import io
import json

import pytest
import torch
from rich.console import Console

from diffopd.evaluation import EvaluationResult, TaskResult, evaluate, file_benchmark
from diffopd.metric.reward_mean import RewardMean
from diffopd.randomness import normal_rows
from diffopd.report.run.results import results_table
from diffopd.reward.checked import RewardError
from diffopd.types import Prompts


def run(model, benchmark, **settings):
    console = Console(file=io.StringIO())
    return evaluate(model, benchmark, batch_size=4, console=console, **settings)


def expected_scores(indices, shift=0.0):
    noise = normal_rows(3, "evaluation/noise", 0, indices, (3, 4, 4))
    return (noise + shift).clamp(0, 1).mean((1, 2, 3))


def test_scores_image_by_image(model, benchmark):
    result = run(model, benchmark)
    words, tags = result.tasks["words"], result.tasks["tags"]
    assert words.texts == ("one", "two")
    assert words.groups == (0, 1, 0, 1, 0, 1)
    torch.testing.assert_close(torch.tensor(words.scores), expected_scores(range(6)))
    assert words.value.n == 6
    assert words.value.mean == pytest.approx(expected_scores(range(6)).mean().item())
    assert words.value.low < words.value.mean < words.value.high
    assert words.parts["dark"] == pytest.approx(1 - words.value.mean)
    assert words.tags == {}
    assert set(tags.tags) == {"a", "b"}
    assert tags.tags["b"].mean == pytest.approx(expected_scores([1, 3]).mean().item())
    assert tags.value.mean == pytest.approx((tags.tags["a"].mean + tags.tags["b"].mean) / 2)


def test_held_out_metrics_see_the_images_of_all_tasks(model, benchmark):
    held_out = run(model, benchmark).held_out["brightness"]
    assert held_out["num_images"] == 10
    every = torch.cat([expected_scores(range(6)), expected_scores(range(4))])
    assert held_out["value"] == pytest.approx(every.mean().item())


def test_a_held_out_metric_may_see_some_tasks_alone(model, benchmark):
    some = dataclasses.replace(benchmark, held_out_tasks={"brightness": ["tags"]})
    held_out = run(model, some).held_out["brightness"]
    assert held_out["num_images"] == 4
    assert held_out["value"] == pytest.approx(expected_scores(range(4)).mean().item())


def test_a_part_of_a_held_out_metric_is_reported_as_a_metric_of_its_own(model, benchmark):
    reward = benchmark.held_out["brightness"].reward
    whole = RewardMean(reward=reward, parts=["dark"], tags=[])
    own = dataclasses.replace(
        benchmark, held_out={"brightness": whole}, held_out_parts={"darkness": "brightness.dark"}
    )
    scores = run(model, own).held_out_scores
    assert list(scores) == ["brightness", "darkness"]
    bright, dark = scores.values()
    assert dark.value == pytest.approx(1 - bright.value)  # as the reward's part is 1 - value
    assert (dark.n, dark.better) == (bright.n, bright.better)
    assert dark.conditions == {**bright.conditions, "part": "dark"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"darkness": "brightness.dim"},
            r"darkness=brightness.dim must be <held-out metric>.<part>, one",
        ),
        ({"darkness": "light.dark"}, r"held_out_parts.darkness=light.dark must be .*brightness.dark"),
        ({"brightness": "brightness.dark"}, r"held_out_parts.brightness: benchmark.held_out has a metric of"),
    ],
)
def test_parts_of_held_out_metrics_are_checked(benchmark, parts, message):
    reward = benchmark.held_out["brightness"].reward
    whole = RewardMean(reward=reward, parts=["dark"], tags=[])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(benchmark, held_out={"brightness": whole}, held_out_parts=parts)


def test_a_held_out_value_comes_with_its_direction_and_what_it_was_measured_with(model, benchmark, tmp_path):
    result = run(model, benchmark)
    (entry,) = result.held_out_scores.values()
    assert (entry.value, entry.n) == (result.held_out["brightness"]["value"], 10)
    assert entry.better == "higher"
    assert entry.conditions["images"] == 10
    assert entry.conditions["seed"] == 3
    assert EvaluationResult.load(result.save(tmp_path / "r.json")).held_out_scores == {"brightness": entry}
    for said, better in ((False, "lower"), (None, "neither")):
        kind = type("Own", (RewardMean,), {"higher_is_better": said})
        reward = benchmark.held_out["brightness"].reward
        own = dataclasses.replace(benchmark, held_out={"brightness": kind(reward=reward, parts=[], tags=[])})
        assert run(model, own).held_out_scores["brightness"].better == better


def test_results_of_before_show_the_value_and_not_another_of_its_numbers(model, benchmark):
    values = {
        "spectrum": {"finest_share": 0.2, "num_images": 192.0, "value": 0.75},  # as JSON sorts them
        "frechet": {"frechet_distance": 3.0, "num_images": 192.0},
        "odd": {"share": 0.5},
        "empty": {"num_images": 3.0},
    }
    before = dataclasses.replace(
        run(model, benchmark), held_out=values, held_out_better={}, held_out_conditions={}
    )
    found = {name: (each.value, each.n, each.better) for name, each in before.held_out_scores.items()}
    assert found == {
        "spectrum": (0.75, 192, "higher"),
        "frechet": (3.0, 192, "lower"),
        "odd": (0.5, None, "neither"),
    }
    lines = console_lines(results_table(before))
    assert "not trained on: detail like clean drawings ↑ 0.750 192" in lines
    assert "not trained on: Fréchet distance ↓ 3.000 192" in lines
    assert "not trained on: odd 0.500" in lines


def console_lines(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_results_with_other_held_out_metrics_of_one_name_do_not_compare(model, benchmark):
    ours = run(model, benchmark)
    named = {"brightness": {**ours.held_out_conditions["brightness"], "metric": "another"}}
    assert ours.differences(dataclasses.replace(ours, held_out_conditions=named)) == [
        "held out, brightness, metric: RewardMean and another"
    ]
    without = dataclasses.replace(ours, held_out={}, held_out_conditions={})
    assert ours.differences(without) == without.differences(ours) == []


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"brightness": ["tag"]}, r"brightness=\['tag'\] must name some of the tasks \['tags', 'words'\]"),
        ({"brightness": []}, r"brightness=\[\] must name some of the tasks"),
        ({"bright": ["tags"]}, r"names bright, benchmark.held_out has \['brightness'\]"),
    ],
)
def test_tasks_of_a_held_out_metric_are_checked(benchmark, tasks, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(benchmark, held_out_tasks=tasks)


def test_a_second_evaluation_starts_anew(model, benchmark):
    first = run(model, benchmark)
    assert run(model, benchmark) == first
    assert run(model, benchmark, adapter="bright") != first


def test_adapter_and_guidance_are_used_and_kept(model, benchmark):
    result = run(model, benchmark, adapter="bright", guidance_scale=2.0)
    assert (result.benchmark, result.seed, result.adapter, result.guidance_scale) == (
        "known",
        3,
        "bright",
        2.0,
    )
    torch.testing.assert_close(torch.tensor(result.tasks["words"].scores), expected_scores(range(6), 1.0))


def test_images_are_handed_on(model, benchmark):
    seen = []
    run(
        model,
        benchmark,
        on_images=lambda task, prompts, images: seen.append((task, len(prompts), len(images))),
    )
    assert seen == [("words", 4, 4), ("words", 2, 2), ("tags", 4, 4)]


def test_json_round_trip(model, benchmark, tmp_path):
    result = run(model, benchmark)
    path = result.save(tmp_path / "results.json")
    assert EvaluationResult.load(path) == result
    assert json.loads(path.read_text())["tasks"]["words"]["value"]["n"] == 6


def test_gain_is_paired(model, benchmark):
    base, bright = run(model, benchmark), run(model, benchmark, adapter="bright")
    gain = bright.gain_over(base, "words")
    difference = expected_scores(range(6), 0.5) - expected_scores(range(6))
    per_prompt = difference.view(3, 2).mean(0)  # images 0, 2, 4 are of the first prompt
    assert gain.mean == pytest.approx(per_prompt.mean().item())
    # Half of all resamples of two values hold one of them twice.
    assert gain.low == pytest.approx(per_prompt.min().item())
    assert gain.high == pytest.approx(per_prompt.max().item())
    other = dataclasses.replace(base, seed=4)
    with pytest.raises(ValueError, match="different prompts or seeds"):
        bright.gain_over(other, "words")


def test_intervals_resample_prompts_not_images():
    # Two prompts, each with 50 equal images: the scatter of a mean of two, not of a hundred.
    groups = tuple(i % 2 for i in range(100))
    prompts = Prompts(("p", "q") * 50, ("t",) * 100, ({},) * 100, tuple(range(100)), groups)
    scores = torch.tensor([float(g) for g in groups])
    value = TaskResult.of(scores, torch.zeros(100, dtype=torch.long), (), {}, prompts).value
    assert (value.mean, value.low, value.high, value.n) == (0.5, 0.0, 1.0, 100)


def test_a_reward_that_fails_is_named(model, benchmark):
    def faulty(images, prompts):
        raise KeyError("lost")

    benchmark.held_out["brightness"].reward = faulty
    named = r"^held_out\.brightness\.reward \(faulty\) raised KeyError: 'lost', for sample 0 "
    with pytest.raises(RewardError, match=named):
        run(model, benchmark)
    benchmark.tasks["words"].metric.reward = faulty
    with pytest.raises(RewardError, match=r"^metric\.reward \(faulty\) .* \(task 'words', prompt 'one'\)"):
        run(model, benchmark)


def test_a_benchmark_may_only_make_images(model, files, sampler):
    plain = file_benchmark(
        name="plain",
        path=files.words,
        task="words",
        num_prompts=None,
        images_per_prompt=1,
        metric=None,
        seed=0,
        sampler=sampler,
    )
    seen = []
    result = run(model, plain, on_images=lambda task, prompts, images: seen.extend(prompts.texts))
    assert seen == ["one", "two", "three"]
    assert result.tasks == {}
    assert result.estimates == {}


def test_impossible_numbers_of_prompts_are_refused(benchmark):
    task = dataclasses.replace(benchmark.tasks["words"], num_prompts=4)
    with pytest.raises(ValueError, match=r"benchmark\.tasks\.words\.num_prompts=4 .* holds 3 prompts"):
        task.prompts("words")
    task = dataclasses.replace(benchmark.tasks["words"], images_per_prompt=0)
    with pytest.raises(ValueError, match=r"benchmark\.tasks\.words\.images_per_prompt=0"):
        task.prompts("words")
    with pytest.raises(ValueError, match=r"benchmark\.tasks is empty"):
        dataclasses.replace(benchmark, tasks={})


def test_progress_prints_plain_lines_where_there_is_no_terminal(model, benchmark):
    console = Console(file=io.StringIO())
    evaluate(model, benchmark, batch_size=4, console=console, label="scoring")
    lines = console.file.getvalue().splitlines()
    assert lines[-1].startswith("scoring | 10/10 images | ")


def test_progress_draws_a_bar_in_a_terminal(model, benchmark):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={})
    evaluate(model, benchmark, batch_size=4, console=console, label="scoring")
    assert "10/10" in console.file.getvalue()
    assert "images/s" in console.file.getvalue()
