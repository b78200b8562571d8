"""What a model can be taught: the same pictures for a seed, and prompts that no caption repeats."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from diffopd.data.prompt_files import read_prompts
from diffopd.world import learning_tasks
from diffopd.world.byte_vocabulary import figure_words
from diffopd.world.colours import COLOURS
from diffopd.world.figures import is_held_out_figure
from diffopd.world.learning_tasks import NAMES, TASKS, style_task, write_task
from diffopd.world.request import parse
from diffopd.world.split import is_held_out
from diffopd.world.styles import STYLES

FEW = {"figure": 6, "subject": 4, "style": 8, "domain": 10}


@pytest.fixture(scope="module", params=TASKS)
def made(request):
    return request.param, TASKS[request.param](1, FEW[request.param])


def test_train_pictures_and_unseen_prompts(made):
    name, task = made
    assert len(task.train) == FEW[name]
    assert len(task.tests) == learning_tasks.NUM_TEST_PROMPTS
    captions, prompts = {x.text for x in task.train}, {line["prompt"] for line in task.tests}
    assert not captions & prompts
    assert len(prompts) == len(task.tests)
    assert all(example.pixels.shape == (32, 32, 3) for example in task.train)


def test_a_seed_says_it_all(made):
    name, task = made
    again, other = (TASKS[name](seed, FEW[name]) for seed in (1, 2))
    assert all(
        (a.pixels == b.pixels).all() and a.text == b.text
        for a, b in zip(task.train, again.train, strict=True)
    )
    assert task.tests == again.tests
    assert any((a.pixels != b.pixels).any() for a, b in zip(task.train, other.train, strict=True))


def test_what_captions_tell_of_figures():
    figure, subject = (TASKS[name](1) for name in ("figure", "subject"))
    for task in (figure, subject):
        assert all(NAMES[1] in example.text for example in task.train)
        assert len({line["figure"] for line in task.tests}) == 1
        assert is_held_out_figure(task.tests[0]["figure"])
    assert all(sum(name in x.text for name in COLOURS) == 2 for x in figure.train)
    assert not any(name in x.text for name in COLOURS for x in subject.train)
    assert len({line["colours"] for line in subject.tests}) == 1


def test_styles_and_the_domain_are_asked_for_by_held_out_prompts():
    for name, ending in (("style", f", {NAMES[1]}"), ("domain", "")):
        task = TASKS[name](1, 10)
        for line in task.tests:
            assert is_held_out(parse(line["prompt"].removesuffix(ending)))
        assert all(not is_held_out(parse(x.text.removesuffix(ending))) for x in task.train)


def test_names_are_no_caption_words():
    assert not set(NAMES) & set(figure_words())


@pytest.mark.parametrize("style", STYLES)
def test_styles_change_every_picture(style):
    plain = np.zeros((32, 32, 3), np.uint8) + 120
    plain[8:24, 8:24] = (214, 32, 44)
    changed = STYLES[style](plain)
    assert changed.dtype == np.uint8
    assert changed.shape == plain.shape
    assert (changed != plain).any(-1).mean() > 0.9
    if style == "outlines":
        assert len(np.unique(changed)) == 2
        assert (changed[..., 0] == 24).sum() in range(60, 70)
    if style == "dithered":
        assert len(np.unique(changed)) <= 3
        assert abs(changed[:8].mean() - 120) < 8  # the mean color stays


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="choose one of outlines, inverted, dithered"):
        style_task(0, style="cubist")


@pytest.mark.parametrize(("name", "captions"), [("figure", 180), ("subject", 108)])
def test_a_caption_is_left_for_a_prompt(name, captions):
    with pytest.raises(ValueError, match=f"number={captions} must be below {captions}"):
        TASKS[name](0, captions)


def test_the_command_writes_an_imagefolder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pictures"
    monkeypatch.setattr(sys, "argv", ["learning_tasks", "subject", str(folder), "--seed", "4"])
    learning_tasks.main()
    assert capsys.readouterr().out.strip() == str(folder)
    lines = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    task = TASKS["subject"](4)
    for line, example in zip(lines, task.train, strict=True):
        assert set(line) == {"file_name", "text"}
        assert (np.asarray(Image.open(folder / "train" / line["file_name"])) == example.pixels).all()
        assert line["text"] == example.text
    prompts = read_prompts(folder / "test.jsonl", "subject")
    assert [entry.text for entry in prompts] == [line["prompt"] for line in task.tests]
    write_task(TASKS["subject"](5), folder)
    assert len(list((folder / "train").glob("*.png"))) == 4
