"""The files of conf/model, conf/adapter and conf/teacher compose into what their classes take."""

from __future__ import annotations

import inspect

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate

from diffopd.adapter import LoRA
from diffopd.model import PipelineModel


def composed(conf_dir, choice):
    group = choice.split("/")[0]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return compose(choice)[group]


@pytest.mark.parametrize(
    ("choice", "tasks"),
    [
        ("mopd", ["aesthetic", "composition", "ocr"]),
        ("composition", ["composition"]),
        ("ocr", ["ocr"]),
        ("aesthetic", ["aesthetic"]),
    ],
)
def test_teacher_choices_name_their_tasks(conf_dir, choice, tasks):
    node = composed(conf_dir, f"teacher/{choice}")
    assert sorted(node.teachers) == tasks
    assert all(node.teachers[task].path == f"package://assets/teachers/{task}" for task in tasks)
    assert node.check_base is True


@pytest.mark.parametrize(("choice", "rank", "alpha"), [("lora", 32, 64), ("lora_small", 16, 32)])
def test_adapter_choices(conf_dir, choice, rank, alpha):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        adapter = instantiate(compose("train", overrides=[f"adapter={choice}"]).adapter, _convert_="all")
    assert isinstance(adapter, LoRA)
    assert (adapter.rank, adapter.alpha, adapter.init, len(adapter.target_modules)) == (
        rank,
        alpha,
        "gaussian",
        8,
    )


def test_model_choices_give_every_setting_and_differ_in_few(conf_dir):
    names = sorted(path.stem for path in (conf_dir / "model").glob("*.yaml"))
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        nodes = {name: compose("train", overrides=[f"model={name}"]).model for name in names}
    for node in nodes.values():
        kind = get_class(node._target_)
        assert issubclass(kind, PipelineModel)
        assert set(node) - {"_target_"} == set(inspect.signature(kind).parameters)
    mini, medium, large = (nodes[name] for name in ("mini_sd3", "sd3_5_medium", "sd3_5_large"))
    assert {key for key in medium if medium[key] != large[key]} == {"path"}
    different = {key for key in mini if mini[key] != medium[key]}
    assert different == {"path", "image_size", "text_length", "guidance_scale", "dtype", "text_dtype"} | {
        "decode_batch_size",
        "fused_blocks",
    }
