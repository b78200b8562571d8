from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from diffopd.adapter import (
    LoRA,
    adapter_parameters,
    add_adapter,
    save_adapter,
    set_trainable,
    trainable_adapters,
)
from diffopd.model import SD3Model, guided_velocity, read_transformer_config
from diffopd.teacher import HeldOut, Recipe, Score, TeacherCard, TeacherSet
from support.tiny_pipelines import PROJECTIONS

TASKS = ("composition", "ocr", "aesthetic", "extra")
GUIDANCE = {"composition": 1.0, "ocr": 4.5, "aesthetic": 3.0, "extra": 4.5}


def card(task, base, guidance_scale=4.5):
    return TeacherCard(
        name=f"{task}_teacher",
        task=task,
        guidance_scale=guidance_scale,
        base=base,
        rank=4,
        alpha=8.0,
        scores={"bench": {task: Score(mean=0.5, low=0.4, high=0.6, n=500)}},
        recipe=Recipe(command="train", seed=1, minutes=2.5, images=6, reward_calls=6, commit="abc"),
    )


@pytest.fixture(scope="session")
def teacher_folders(tiny, tmp_path_factory):
    """Four saved teachers that differ clearly, with cards."""
    root = tmp_path_factory.mktemp("teachers")
    model = SD3Model(**tiny.settings)
    for seed, task in enumerate(TASKS):
        generator = torch.Generator().manual_seed(seed)
        config = LoRA(rank=4, alpha=8, init="gaussian", target_modules=PROJECTIONS, start=None)
        add_adapter(model.transformer, task, config, generator)
        with torch.no_grad():
            for parameter in adapter_parameters(model.transformer, task).values():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model.transformer, task, root / task)
        card(task, model.identity, GUIDANCE[task]).save(root / task)
    return root


def teacher_set(root, tasks=TASKS, check_base=True, guidance_scale=None):
    teachers = {task: {"path": str(root / task), "guidance_scale": guidance_scale} for task in tasks}
    return TeacherSet(teachers=teachers, check_base=check_base)


@pytest.mark.parametrize("num_teachers", [1, 2, 4])
def test_each_row_is_answered_by_its_own_teacher_at_its_own_guidance(model, teacher_folders, num_teachers):
    teachers = teacher_set(teacher_folders, TASKS[:num_teachers])
    teachers.load(model)
    tasks = [teachers.tasks[row % num_teachers] for row in range(5)]
    generator = torch.Generator().manual_seed(9)
    latent, sigma = torch.randn(5, *model.latent_shape, generator=generator), torch.linspace(0.9, 0.1, 5)
    conditioning = model.encode([f"a cat {'x' * row}" for row in range(5)])
    together = teachers.velocity(model, latent, sigma, tasks, conditioning, model.unconditional())
    assert not together.requires_grad
    for row, task in enumerate(tasks):
        with torch.no_grad():
            alone = guided_velocity(
                model,
                latent[row : row + 1],
                sigma[row : row + 1],
                conditioning.select([row]),
                model.unconditional(),
                GUIDANCE[task],
                f"teacher_{task}",
            )
            base = model.velocity(latent[row : row + 1], sigma[row : row + 1], conditioning.select([row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
        assert (alone - base).abs().max() > 1e-2


ROUTES = [{"ocr": 0.25, "aesthetic": 0.75}, {"composition": 1.0}, {"extra": 1.0, "ocr": 0.0}]


@pytest.mark.parametrize("one_per_state", [False, True])
def test_a_mixed_row_is_the_weighted_sum_of_its_teachers(model, teacher_folders, one_per_state):
    teachers = teacher_set(teacher_folders)
    teachers.load(model)
    latent, sigma, conditioning, empty = three_states(model)
    if one_per_state:
        empty = empty.select([0, 0, 0])
    found = teachers.mixed_velocity(model, latent, sigma, ROUTES, conditioning, empty)
    assert not found.requires_grad
    for row, route in enumerate(ROUTES):
        at = (latent[row : row + 1], sigma[row : row + 1])
        given = (conditioning.select([row]), model.unconditional())
        expected = torch.zeros_like(at[0])
        for name, weight in route.items():
            expected += weight * teachers.velocity(model, *at, [name], *given)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-5)


def three_states(model):
    generator = torch.Generator().manual_seed(9)
    latent = torch.randn(3, *model.latent_shape, generator=generator)
    conditioning = model.encode(["a cat", "two cats", "a sign"])
    return latent, torch.tensor([0.9, 0.5, 0.1]), conditioning, model.unconditional()


def test_a_mixture_costs_a_row_per_teacher_and_one_forward(model, teacher_folders, monkeypatch):
    """Two guided teachers, one without guidance, one guided: 4 rows, and 3 without prompt."""
    teachers = teacher_set(teacher_folders)
    teachers.load(model)
    forwards, forward = [], model.velocity

    def counted(latent, *arguments):
        forwards.append(len(latent))
        return forward(latent, *arguments)

    monkeypatch.setattr(model, "velocity", counted)
    latent, sigma, conditioning, empty = three_states(model)
    teachers.mixed_velocity(model, latent, sigma, ROUTES, conditioning, empty)
    assert forwards == [7]
    hard = [{"ocr": 1.0}, {"composition": 1.0}, {"ocr": 1.0}]
    mixed = teachers.mixed_velocity(model, latent, sigma, hard, conditioning, empty)
    single = teachers.velocity(model, latent, sigma, ["ocr", "composition", "ocr"], conditioning, empty)
    assert forwards == [7, 5, 5]
    assert torch.equal(mixed, single)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([{"ocr": 1.0}], "got routes for 1 samples and 3 states"),
        ([{"ocr": 1.0}, {}, {"ocr": 0.0}], r"samples without a teacher: \[1, 2\]"),
        ([{"ocr": 1.0}, {"ocr": 1.0}, {"nobody": 0.5, "ocr": 0.5}], "no teacher for task nobody"),
    ],
)
def test_impossible_routes_are_refused(model, teacher_folders, routes, message):
    teachers = teacher_set(teacher_folders)
    teachers.load(model)
    latent, sigma, conditioning, empty = three_states(model)
    with pytest.raises(ValueError, match=message):
        teachers.mixed_velocity(model, latent, sigma, routes, conditioning, empty)


def test_teachers_are_frozen_and_leave_the_student_trainable(model, teacher_folders):
    config = LoRA(rank=2, alpha=4, init="gaussian", target_modules=PROJECTIONS, start=None)
    add_adapter(model.transformer, "student", config, torch.Generator().manual_seed(0))
    set_trainable(model.transformer, ["student"])
    teacher_set(teacher_folders).load(model)
    assert trainable_adapters(model.transformer) == ("student",)


def test_guidance_comes_from_the_card_unless_the_config_names_one(teacher_folders):
    assert teacher_set(teacher_folders).guidance_scales == GUIDANCE
    assert set(teacher_set(teacher_folders, guidance_scale=2.0).guidance_scales.values()) == {2.0}


def test_cards_round_trip(tmp_path):
    written = card("ocr", "base")
    path = written.save(tmp_path)
    assert path.name == "card.json"
    assert TeacherCard.load(tmp_path) == written
    assert json.loads(path.read_text())["scores"]["bench"]["ocr"]["n"] == 500


def test_a_card_keeps_what_nothing_is_trained_on_and_one_of_before_has_none(tmp_path):
    distance = HeldOut(value=1.5, n=192, better="lower", conditions={"seed": 0})
    written = dataclasses.replace(card("ocr", "base"), held_out={"mini": {"frechet": distance}})
    written.save(tmp_path)
    assert TeacherCard.load(tmp_path) == written
    before = dataclasses.asdict(written)
    del before["held_out"]
    (tmp_path / "card.json").write_text(json.dumps(before))
    assert TeacherCard.load(tmp_path) == card("ocr", "base")
    broken = {**before, "held_out": {"mini": {"frechet": {"value": 1.5}}}}
    (tmp_path / "card.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"is not a valid card.json"):
        TeacherCard.load(tmp_path)


def test_a_teacher_without_a_card_is_refused_before_weights_load(tmp_path):
    (tmp_path / "ocr").mkdir()
    with pytest.raises(ValueError, match=r"teacher\.teachers\.ocr\.path=.*there is no card\.json"):
        teacher_set(tmp_path, ["ocr"])


@pytest.mark.parametrize(
    "broken",
    [{"name": "x"}, {**dataclasses.asdict(card("ocr", "b")), "guidance_scale": 0.5}, [], {"scores": None}],
)
def test_an_incomplete_card_is_refused(tmp_path, broken):
    (tmp_path / "card.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"is not a valid card.json .*it needs name, task, guidance_scale"):
        TeacherCard.load(tmp_path)


def test_teachers_of_another_base_are_refused_on_request(model, teacher_folders, tmp_path):
    folder = tmp_path / "ocr"
    folder.mkdir()
    for file in (teacher_folders / "ocr").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card("ocr", "0123456789abcdef").save(folder)
    with pytest.raises(ValueError, match="was trained on base 0123456789ab, this model is"):
        teacher_set(tmp_path, ["ocr"]).load(model)
    teacher_set(tmp_path, ["ocr"], check_base=False).load(model)
    assert "teacher_ocr" in model.transformer.peft_config


def test_teachers_that_do_not_fit_are_refused_before_weights_load(tiny, teacher_folders):
    config = read_transformer_config(str(tiny.folder))
    teachers = teacher_set(teacher_folders)
    teachers.check(config)
    with pytest.raises(ValueError, match=r"teacher\.teachers\.composition\.path=.*missing"):
        teachers.check({**config, "num_layers": 3})


def test_a_task_without_a_teacher_is_refused(model, teacher_folders):
    teachers = teacher_set(teacher_folders, ["ocr"])
    teachers.load(model)
    latent, sigma, conditioning = torch.zeros(1, *model.latent_shape), torch.ones(1), model.encode(["a"])
    with pytest.raises(ValueError, match=r"no teacher for task composition; teacher\.teachers has ocr"):
        teachers.velocity(model, latent, sigma, ["composition"], conditioning, model.unconditional())


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({}, "teacher.teachers is empty"),
        ({"ocr": {"path": "x"}}, r"teacher\.teachers\.ocr has keys \['path'\], it needs"),
    ],
)
def test_impossible_sets_are_refused(teachers, message):
    with pytest.raises(ValueError, match=message):
        TeacherSet(teachers=teachers, check_base=True)


def test_guidance_below_one_is_refused(teacher_folders):
    with pytest.raises(ValueError, match=r"teacher\.teachers\.ocr\.guidance_scale=0.5; at least 1"):
        teacher_set(teacher_folders, ["ocr"], guidance_scale=0.5)
