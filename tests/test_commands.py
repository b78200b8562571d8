"""``diffopd.evaluate`` and ``diffopd.sample`` as users call them, in one process and on a tiny pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from diffopd import sample
from diffopd.config.arguments import hydra_arguments, with_text_quoted
from diffopd.evaluate import __main__ as evaluate
from diffopd.evaluation import EvaluationResult
from diffopd.reward.checked import RewardError
from diffopd.reward.text.ocr import OcrReward
from support.tiny_pipelines import TinyPipeline, without_t5

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyPipeline:
    return without_t5(tmp_path_factory.mktemp("pipeline"))


def config(name, tiny, folder, *overrides):
    settings = [f"model.path={tiny.folder}", f"model.image_size={tiny.settings['image_size']}", "device=cpu"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=[*settings, f"paths.run={folder}", *overrides])


def test_evaluate_writes_results_images_and_config(tiny, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red barn\na blue door\n")
    overrides = [
        "benchmark=drawbench",
        f"benchmark.path={tmp_path / 'prompts.txt'}",
        "benchmark.sampler.num_steps=2",
        "guidance_scale=2.0",
        "num_threads=1",
    ]
    evaluate.run(config("evaluate", tiny, tmp_path / "run", *overrides))
    result = EvaluationResult.load(tmp_path / "run" / "results.json")
    assert result.tasks["aesthetic"].texts == ("a red barn", "a blue door")
    assert result.guidance_scale == 2.0
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.*")}
    assert files == {
        ".lock",
        "config.yaml",
        "made_from.json",
        "results.json",
        "images.png",
        "images/aesthetic/00000.png",
        "images/aesthetic/00001.png",
    }
    out = capsys.readouterr().out
    assert "palette_harmony" in out
    assert str(tmp_path / "run" / "results.json") in out


def test_a_reward_that_fails_leaves_the_sample(tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("the reader broke")

    monkeypatch.setattr(OcrReward, "__call__", fail)
    (tmp_path / "prompts.txt").write_text('a sign that says "BARN"\n')
    overrides = ["benchmark=ocr", f"benchmark.path={tmp_path / 'prompts.txt'}", "num_threads=1"]
    overrides.append("check_scorers=false")  # which would meet the reward first
    with pytest.raises(
        RewardError, match=r"metric\.reward \(OcrReward\) raised ValueError: the reader broke"
    ):
        evaluate.run(config("evaluate", tiny, tmp_path / "run", *overrides, "benchmark.sampler.num_steps=2"))
    assert (tmp_path / "run" / "failed_reward" / "evaluation_ocr_00000.png").is_file()


def test_sample_writes_each_image_and_a_sheet(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    sample.run(config("sample", tiny, run, "prompt=a barn", "num_images=2", "sampler.num_steps=2"))
    assert capsys.readouterr().out.split() == [str(run / n) for n in ("000.png", "001.png", "sheet.png")]
    with Image.open(run / "000.png") as first, Image.open(run / "001.png") as second:
        assert first.size == (16, 16)
        assert first.tobytes() != second.tobytes()


def test_many_steps_of_a_model_that_was_made_for_few_are_told(caplog):
    for distilled, steps in ((True, 4), (True, 16), (False, 40)):
        sample.tell_of_many_steps(distilled, steps)
    assert not caplog.records
    sample.tell_of_many_steps(True, 40)
    assert "sampler.num_steps=40, and the model was made for a few steps" in caplog.text


def test_an_adapter_that_is_absent_is_refused_before_weights_load(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"adapter=.*absent: there is no such folder or file"):
        sample.run(config("sample", tiny, tmp_path, "prompt=x", f"adapter_path={tmp_path / 'absent'}"))


def test_sample_takes_a_whole_transformer_and_a_single_lora_file(tiny, tmp_path):
    """Neither has a card; both move the picture, each to another one."""
    transformer = tiny.load_stock().transformer
    layer = "transformer_blocks.0.attn.to_q"
    save_file(
        {
            f"transformer.{layer}.lora_A.weight": torch.ones(2, 16),
            f"transformer.{layer}.lora_B.weight": torch.ones(16, 2),
        },
        tmp_path / "lora.safetensors",
    )
    with torch.no_grad():
        transformer.proj_out.weight *= 3
    transformer.save_pretrained(tmp_path / "whole")
    pictures = set()
    for path in ("null", tmp_path / "lora.safetensors", tmp_path / "whole"):
        run = tmp_path / f"run{len(pictures)}"
        overrides = ["prompt=a barn", "sampler.num_steps=2", f"adapter_path={path}"]
        sample.run(config("sample", tiny, run, *overrides))
        pictures.add((run / "000.png").read_bytes())
    assert len(pictures) == 3


ODD = st.one_of(st.text(), st.text("\\'\"${}a:, =\n[]()#"))


@given(ODD)
@example('"CAT"')
@example("'CAT'")
@example("both \"double\" and 'single'")
@example('"A" and "B"')
@example("${oc.env:HOME}")
@example("\\${seed} \\\\${seed}")
@example("a backslash at the end\\")
@example("a quote after a backslash\\'")
@example("it's late, (very) late: {now} [here] \\o/ = a*b")
@example("two\nlines")
@example("null")
@example("1e3")
@example("eine Tür, ein Häuschen, 猫, \u202e")
def test_a_prompt_is_text_exactly_as_it_is(prompt):
    assume(prompt != "???")  # to OmegaConf a value that nobody gave
    override = OverridesParser.create().parse_override(hydra_arguments([f"prompt={prompt}"])[0])
    assert not override.is_sweep_override()
    assert OmegaConf.create({"prompt": override.value(), "seed": 1}).prompt == prompt


@given(
    ODD, st.sampled_from(["adapter_path", "name", "model.path", "paths.root", "+teacher.teachers.ocr.path"])
)
@example("runs/lr=3e-4/adapter", "adapter_path")
@example("runs/[a,b]/adapter {1}", "adapter_path")
@example("007", "run_id")
@example("~/models/base", "model.path")
@example("a~b", "name")
@example("1e5", "model.revision")
@example("größe", "name")
def test_a_setting_that_is_text_is_text_exactly_as_it_is(value, key):
    quotes = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    assume(
        not quotes
        and "${" not in value
        and value.lower() not in ("null", "true", "false", "nan", "inf", "", "???")
    )
    override = OverridesParser.create().parse_override(with_text_quoted([f"{key}={value}"])[0])
    assert OmegaConf.create({"it": override.value()}).it == value


def test_what_means_something_to_hydra_keeps_its_meaning():
    same = [
        "name=${seed}",
        "name='a b'",
        "adapter_path=null",
        "seed=1",
        "optimizer.betas=[0.9,0.99]",
        "-m",
        "name=a,b",
    ]
    assert with_text_quoted(same) == same
    assert with_text_quoted(["name=a,b"]) == ["name='a,b'"]  # without -m


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("overrides=[optimizer.lr=1e-4,~report]", ["optimizer.lr=1e-4", "~report"]),
        ("overrides=[model.lora_modules=[attn.to_q,attn.to_k], seed=1]",
         ["model.lora_modules=[attn.to_q,attn.to_k]", "seed=1"]),
        ('overrides=["a=1","b=2, 3"]', ["a=1", "b=2, 3"]),
        ("stages.ocr.overrides=[model.path=~/base]", ["model.path=~/base"]),
        ("adapter.merge.folders=[runs/lr=3e-4/adapter,~/b]", ["runs/lr=3e-4/adapter", "~/b"]),
        ("runs=[runs/lr=3e-4,runs/b]", ["runs/lr=3e-4", "runs/b"]),
        ("runs=runs/lr=3e-4/*", "runs/lr=3e-4/*"),
        ("+scorer_pairs.ocr.prompt=a sign \"CAT\", red", 'a sign "CAT", red'),
        ("overrides=[]", []),
        ("ablations=all", "all"),
    ],
)  # fmt: skip
def test_lists_of_texts_are_read_as_typed(argument, value):
    (given,) = with_text_quoted([argument])
    override = OverridesParser.create().parse_override(given)
    assert OmegaConf.to_container(OmegaConf.create({"it": override.value()})) == {"it": value}


def test_a_sweep_over_lists_stays_one():
    sweep = ["-m", "overrides=[a],[b]"]
    assert with_text_quoted(sweep) == sweep
    assert OverridesParser.create().parse_override(sweep[1]).is_sweep_override()


def test_bytes_that_an_ascii_locale_cannot_read_are_utf_8():
    argument = "name=größe".encode().decode("ascii", "surrogateescape")
    assert with_text_quoted([argument]) == ["name='größe'"]


def test_other_arguments_are_left_alone():
    arguments = [
        "seed=1",
        "-m",
        "prompt",
        "adapter_path=x",
        "model.path=y",
    ]
    assert hydra_arguments(arguments) == arguments


def test_adapter_is_short_for_its_path():
    assert hydra_arguments(["adapter=runs/a=b/student"]) == ["adapter_path=runs/a=b/student"]


@pytest.mark.slow
def test_the_command_ends_with_one_message_on_a_mistake(tmp_path):
    command = [
        sys.executable,
        "-m",
        "diffopd.sample",
        "prompt=x",
        "model.path=/absent/model",
        f"paths.root={tmp_path}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "config error: model.path=/absent/model: there is no such folder" in result.stderr
    assert "Traceback" not in result.stderr
