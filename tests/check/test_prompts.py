"""Prompts that a reward cannot score are refused by file and line, before any weight loads."""

import json
import re

import pytest
from hydra.utils import instantiate

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_prompts
from diffopd.data.prompts import PromptData
from diffopd.model import SD3Model

CAT = {"class": "circle", "count": 1}
GOOD = {"prompt": "a photo of a circle", "tag": "single_object", "include": [CAT]}


def lines(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a cat"}, r"needs 'include', a list .*; it has the keys \['prompt'\]"),
        ({**GOOD, "include": []}, "needs 'include'"),
        ({**GOOD, "exclude": "dog"}, "may have 'exclude', another"),
        ({**GOOD, "include": [{"class": "ring"}]}, "clause needs 'class' and 'count', got {'class': 'ring'}"),
        ({**GOOD, "include": [{**CAT, "count": 0}]}, "'count' .* must be a whole number of at least 1"),
        (
            {**GOOD, "include": [{**CAT, "class": "circel"}]},
            "no image can have class 'circel': .* mean 'circle'",
        ),
        (
            {**GOOD, "exclude": [{**CAT, "class": "zebra"}]},
            "class 'zebra': .* it knows circle, cross, ring, square",
        ),
        ({**GOOD, "include": [{**CAT, "color": "rd"}]}, "no image can have color 'rd': .* mean 'red'"),
        (
            {**GOOD, "include": [{**CAT, "class": ["circle"]}]},
            "'class' of a GenEval clause must be a name, got",
        ),
        ({**GOOD, "include": [{**CAT, "color": 3}]}, "'color' of a GenEval clause must be a name, got"),
        ({**GOOD, "include": [{**CAT, "position": ["over", 0]}]}, r"must be \[relation, an earlier clause\]"),
        ({**GOOD, "include": [{**CAT, "position": ["above", 0]}]}, "an earlier clause"),
    ],
)
def test_composition_lines_without_what_the_reward_needs(
    composed, on_disk, tmp_path, monkeypatch, record, message
):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(SD3Model, "__init__", load)
    path = lines(tmp_path / "asked.jsonl", GOOD, record, record)
    cfg = composed(
        "+experiment=mopd_ode",
        *on_disk,
        f"data.tasks.composition.path={path}",
        f"paths.run={tmp_path / 'run'}",
    )
    expected = rf"^data.tasks.composition.path={re.escape(path)}, line 2: .*{message}.* \(and 1 more\)$"
    with pytest.raises(ConfigError, match=expected):
        build(cfg)


def test_ocr_prompts_that_quote_nothing(composed, tmp_path):
    cfg = composed("+experiment=mopd_ode")
    (tmp_path / "signs.txt").write_text('a sign "ON"\n\na sign\n')
    tasks = {"ocr": {"path": str(tmp_path / "signs.txt"), "prompts_per_round": 1, "group_size": 1}}
    data = PromptData(seed=0, schedule="accumulate", tasks=tasks)
    with pytest.raises(
        ConfigError, match=r"signs.txt, line 3: the ocr reward needs the text .* got 'a sign'"
    ):
        check_prompts(data.tasks, {"tasks": tasks}, instantiate(cfg.reward))
    check_prompts(
        data.tasks, tasks, instantiate(composed("+experiment=mopd_ode", "reward=picture_quality").reward)
    )
    check_prompts(data.tasks, {"tasks": tasks}, lambda images, prompts: 0)  # says nothing of prompts
    check_prompts(None, None, None)  # drawings


def test_the_packages_own_prompts_pass(composed):
    cfg = composed("+experiment=mopd_ode")
    data = instantiate(cfg.data)
    check_prompts(data.tasks, cfg.data, instantiate(cfg.reward))
