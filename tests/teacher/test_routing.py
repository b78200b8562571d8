from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.teacher import Automatic, ByTask, Mixture, Routing
from diffopd.types import Prompts

TEACHERS = ("composition", "ocr", "aesthetic")
MIX = {"ocr": {"ocr": 3, "aesthetic": 1, "composition": 0}, "aesthetic": {"aesthetic": 0.2}}


def prompts(*tasks, metadata=None):
    numbers = tuple(range(len(tasks)))
    given = tuple(metadata or [{}] * len(tasks))
    return Prompts(tuple(f"prompt {number}" for number in numbers), tasks, given, numbers, numbers)


def test_the_paper_s_rule_takes_the_task_s_teacher():
    found = ByTask().weights(prompts("ocr", "aesthetic", "ocr"), TEACHERS)
    assert found == [{"ocr": 1.0}, {"aesthetic": 1.0}, {"ocr": 1.0}]


def test_a_task_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match=r"no teacher for task signs; teacher.teachers has composition, ocr"):
        ByTask().weights(prompts("ocr", "signs"), TEACHERS)


def test_a_mixture_takes_its_weights_as_shares():
    found = Mixture(weights=MIX).weights(prompts("ocr", "aesthetic"), TEACHERS)
    assert found == [{"ocr": 0.75, "aesthetic": 0.25}, {"aesthetic": 1.0}]


def test_a_prompt_s_own_weights_come_first():
    own = {"teacher_weights": {"composition": 1, "ocr": 4}}
    found = Mixture(weights=MIX).weights(prompts("ocr", "ocr", "signs", metadata=[{}, own, own]), TEACHERS)
    assert found == [{"ocr": 0.75, "aesthetic": 0.25}, *2 * [{"composition": 0.2, "ocr": 0.8}]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (prompts("signs"), r"routing.weights has no task signs; it has ocr, aesthetic"),
        (
            prompts("ocr", metadata=[{"teacher_weights": {"signs": 1, "ocr": 1}}]),
            r"teacher_weights of prompt 'prompt 0' \(task ocr\) names signs, which is not a teacher; .*has",
        ),
        (prompts("ocr", metadata=[{"teacher_weights": [1, 2]}]), r"teacher_weights .* must be a mapping"),
        (prompts("ocr", metadata=[{"teacher_weights": {"ocr": 0}}]), r"gives no teacher a weight above 0"),
    ],
)
def test_rows_without_sound_weights_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        Mixture(weights=MIX).weights(rows, TEACHERS)


def test_a_mixture_of_unknown_teachers_is_refused_where_it_is_used():
    routing = Mixture(weights={**MIX, "signs": {"nobody": 1}})
    assert routing.weights(prompts("aesthetic"), TEACHERS) == [{"aesthetic": 1.0}]
    with pytest.raises(ValueError, match=r"routing.weights.signs names nobody, which is not a teacher"):
        routing.weights(prompts("signs"), TEACHERS)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "much", True])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(ValueError, match=r"routing.weights.ocr=.* finite numbers of at least 0"):
        Mixture(weights={"ocr": {"ocr": weight}})


SCORES = {
    "composition": {"composition": 0.9, "ocr": 0.2, "aesthetic": 0.5},
    "ocr": {"composition": 0.1, "ocr": 0.1, "aesthetic": 0.6},
    "aesthetic": {"composition": 0.3, "ocr": 0.2, "aesthetic": 0.4},
}


@pytest.fixture
def automatic(tmp_path):
    """Two tasks of 4 and 2 prompts, 3 of each to be measured with."""
    (tmp_path / "ocr.txt").write_text("\n".join(f"text {number}" for number in range(4)))
    (tmp_path / "composition.jsonl").write_text('{"prompt": "x", "tag": "t"}\n{"prompt": "y", "tag": "t"}')
    paths = {"ocr": tmp_path / "ocr.txt", "composition": tmp_path / "composition.jsonl"}
    return Automatic(
        num_prompts=3, tasks={task: {"path": str(path), "group_size": 1} for task, path in paths.items()}
    )


def test_the_best_teacher_of_each_task_is_chosen_the_first_of_equal_ones(automatic):
    automatic.choose(SCORES)
    found = automatic.weights(prompts("composition", "ocr", "aesthetic"), TEACHERS)
    assert found == [{"composition": 1.0}, {"composition": 1.0}, {"ocr": 1.0}]


def test_prompts_to_measure_are_drawn_from_every_task(automatic):
    found = automatic.prompts_to_measure(0)
    assert found.tasks == (*3 * ["ocr"], *2 * ["composition"])
    assert len(set(found.texts)) == 5
    assert found.metadata[3]["tag"] == "t"
    assert found.indices == (0, 1, 2, 3, 4)
    assert automatic.prompts_to_measure(0) == found
    assert len({automatic.prompts_to_measure(seed).texts for seed in range(5)}) > 1


def test_a_choice_is_kept_and_not_measured_again(automatic):
    assert json.loads(json.dumps(automatic.state_dict())) == {"choice": None}
    automatic.choose(SCORES)
    resumed = Automatic(num_prompts=3, tasks={})
    resumed.load_state_dict(json.loads(json.dumps(automatic.state_dict())))
    assert resumed.prompts_to_measure(0) is None
    assert resumed.weights(prompts("ocr"), TEACHERS) == [{"composition": 1.0}]


def test_an_automatic_routing_says_what_it_lacks(automatic):
    with pytest.raises(ValueError, match=r"routing=automatic has no scores yet"):
        automatic.weights(prompts("ocr"), TEACHERS)
    with pytest.raises(ValueError, match=r"teacher b has the score None on task ocr; .*a finite one"):
        automatic.choose({"a": {"ocr": 1.0}, "b": {}})
    with pytest.raises(ValueError, match=r"teacher a has the score nan on task ocr"):
        automatic.choose({"a": {"ocr": float("nan")}})
    automatic.choose(SCORES)
    with pytest.raises(ValueError, match=r"was not measured on task signs, only on composition, ocr"):
        automatic.weights(prompts("signs"), TEACHERS)
    with pytest.raises(ValueError, match=r"chose teacher composition for task ocr, and .* has ocr now"):
        automatic.weights(prompts("ocr"), ("ocr",))


@pytest.mark.parametrize("choice", ["by_task", "mixture", "automatic"])
def test_every_choice_meets_the_contract(conf_dir, choice):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=mopd_ode", f"routing={choice}", "paths.run=."])
    routing = instantiate(cfg.routing)
    assert isinstance(routing, Routing)
    measured = routing.prompts_to_measure(1)
    if choice == "automatic":
        assert [measured.tasks.count(task) for task in TEACHERS] == 3 * [16]
        routing.choose(SCORES)
    else:
        assert measured is None
    rows = prompts("ocr", "composition", "aesthetic")
    found = routing.weights(rows, TEACHERS)
    assert [sum(row.values()) for row in found] == pytest.approx([1.0, 1.0, 1.0])
    routing.load_state_dict(json.loads(json.dumps(routing.state_dict())))
    assert routing.weights(rows, TEACHERS) == found
