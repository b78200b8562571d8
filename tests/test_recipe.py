"""The recipe in docs/published_teachers.md: its command composes, is accepted, and trains a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_config
from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint
from diffopd.export import __main__ as export
from diffopd.model import SD3Model
from support.tiny_pipelines import TinyPipeline, with_t5

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "published_teachers.md").read_text()
TEACHERS = ("geneval", "ocr", "pickscore")


def command(program):
    """The words of the page's first command of one program."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    line = next(line for line in blocks.splitlines() if line.startswith(f"python -m diffopd.{program} "))
    return shlex.split(line)[3:]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyPipeline:
    return with_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def published(tiny, tmp_path, monkeypatch):
    """Teachers and prompts where the page says they are: PEFT folders of the released layout."""
    monkeypatch.chdir(tmp_path)
    transformer = SD3Model(**tiny.settings).transformer
    lora = tuple(f"attn.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out"))
    targets = (*lora, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
    for seed, name in enumerate(TEACHERS):
        generator, tensors = torch.Generator().manual_seed(seed), {}
        for layer, module in transformer.named_modules():
            if layer.endswith(targets):
                outputs, inputs = module.weight.shape
                key = f"base_model.model.{layer}"
                tensors[f"{key}.lora_A.weight"] = torch.randn(32, inputs, generator=generator) * 0.1
                tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, 32, generator=generator) * 0.1
        folder = tmp_path / "teachers" / name
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "target_modules": list(targets)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "prompts").mkdir()
    geneval = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}
    (tmp_path / "prompts" / "geneval_train.jsonl").write_text(f"{json.dumps(geneval)}\n" * 4)
    for name in ("ocr_train", "pickapic_train"):
        (tmp_path / "prompts" / f"{name}.txt").write_text('a sign that says "HI"\n' * 4)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "stable-diffusion-3.5-medium").symlink_to(tiny.folder)


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*command("train"), f"paths.run={Path.cwd() / 'run'}", *overrides])


def test_the_command_of_the_page_is_accepted(published):
    cfg = composed()
    check_config(cfg)
    assert cfg.model.image_size == 512
    assert (cfg.adapter.rank, cfg.adapter.alpha) == (32, 64)
    assert {entry.guidance_scale for entry in cfg.teacher.teachers.values()} == {4.5}


def test_a_teacher_whose_guidance_nobody_says_is_refused(published):
    with pytest.raises(
        ConfigError, match=r"teacher\.teachers\.ocr\.path=teachers/ocr: .* holds no card\.json"
    ):
        check_config(composed("teacher.teachers.ocr.guidance_scale=null"))


SMALL = ["model.image_size=16", "model.text_length=6", "model.dtype=fp32", "model.text_dtype=fp32"]
SMALL += [f"data.tasks.{task}.prompts_per_round=2" for task in ("composition", "ocr", "aesthetic")]
SMALL += ["trainer.accelerator=cpu", "trainer.num_threads=1", "logger=csv", "sampler.num_steps=4"]


def test_the_recipe_trains_and_exports(published, capsys):
    """Two rounds on a model of the same class, then the page's two exports."""
    build(composed(*SMALL, "trainer.max_epochs=2")).run()
    for written_as in ("diffusers", "comfyui"):
        arguments = [f"run={Path.cwd() / 'run'}", f"format={written_as}", f"to={Path.cwd() / written_as}"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            export.run(compose("export", overrides=[*arguments, "device=cpu"]))
        assert "read back: largest difference" in capsys.readouterr().out
        assert "| ocr | `teachers/ocr` | 4.5 | `" in (Path.cwd() / written_as / "README.md").read_text()


@pytest.mark.slow  # tests/teacher/test_frozen.py has both kinds in one batch each time
def test_a_whole_transformer_may_be_one_of_the_teachers(published, tiny):
    """It is asked in every round, and no checkpoint holds it."""
    whole = tiny.load_stock().transformer
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    whole.save_pretrained("teachers/whole/transformer")
    run = build(composed(*SMALL, "trainer.max_epochs=1", "teacher.teachers.ocr.path=teachers/whole"))
    run.fit()
    gaps = {key: float(value) for key, value in run.trainer.callback_metrics.items() if "train/gap/" in key}
    assert gaps["train/gap/ocr"] > 0
    saved = read_checkpoint(latest_valid_checkpoint(Path.cwd() / "run" / "checkpoints"))
    assert saved["state_dict"]
    assert not [key for key in saved["state_dict"] if "backbones" in key]
