"""Presets of conf/hardware change memory, speed and processes, and nothing that a result depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffopd.check.combination import combination_problems
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.folder import flat_settings

CONF = Path(__file__).parents[1] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
EXPERIMENTS = ("mopd_ode", "guard_aesthetic")
OTHERS = (
    "mopd_dmd",
    "multi_nft",
    "mopd_sde",
    "mopd_ppo",
    "mopd_sft",
    "mopd_tdm",
    "teacher_ocr",
    "gradient_variance",
)
MAY_CHANGE = {
    "hardware.micro_batch_size",
    "phase.micro_batch_size",
    "model.gradient_checkpointing",
    "model.vae_tiling",
    "model.offload_text_encoders",
    "model.prompt_cache",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.strategy._target_",
    "trainer.strategy.start_method",
    "trainer.strategy.timeout_minutes",
}
"""None of them changes a loss, a gradient or which images are made; precision is the model's own."""


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["model=sd3_5_medium", "paths.run=run", *overrides])


def settings(*overrides):
    return dict(flat_settings(plain_values(composed(*overrides))))


@pytest.mark.parametrize(
    "experiment", [*EXPERIMENTS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_presets_leave_the_algorithm_alone(experiment):
    plain = settings(f"+experiment={experiment}")
    assert plain == settings(f"+experiment={experiment}", "hardware=none")
    for preset in PRESETS:
        chosen = settings(f"+experiment={experiment}", f"hardware={preset}")
        changed = {key for key in plain.keys() | chosen.keys() if plain.get(key) != chosen.get(key)}
        assert changed <= MAY_CHANGE, preset
        kept = ("data.", "loss.", "sampler.", "optimizer.", "adapter.", "trainer.max_epochs", "phase.ema.")
        assert {key for key in chosen if key.startswith(kept)} <= chosen.keys() - changed
        if preset != "none":
            assert chosen["model.prompt_cache"] == "runs/prompt_cache"
            expected = 4 if preset == "gpu_24gb" else 8
            assert chosen.get("phase.micro_batch_size", expected) == expected


@pytest.mark.parametrize("model", ["flux2_klein", "z_image_turbo"])
def test_a_model_that_teaches_itself_takes_the_presets(model):
    chosen = (f"model={model}", "+experiment=dopsd", "data.path=pictures")
    plain = settings(*chosen)
    for preset in ("gpu_24gb", "gpu_80gb"):
        found = settings(*chosen, f"hardware={preset}")
        changed = {key for key in plain.keys() | found.keys() if plain.get(key) != found.get(key)}
        assert changed <= MAY_CHANGE - {"trainer.strategy"}, preset
        assert (
            found["phase.micro_batch_size"] >= found["data.prompts_per_round"]
        )  # as docs/hardware.md computes
        assert found["model.gradient_checkpointing"] == (preset == "gpu_24gb")


def test_there_are_presets():
    assert PRESETS == ["gpu_24gb", "gpu_80gb", "node_8x80gb", "none"]
    node = composed("+experiment=mopd_ode", "hardware=node_8x80gb")
    assert node.trainer.strategy._target_ == "diffopd.strategy.DataParallel"
    assert (node.trainer.devices, node.trainer.accelerator) == (8, "gpu")
    assert composed("+experiment=mopd_ode").phase.micro_batch_size is None


def test_an_experiment_and_the_command_line_win_over_a_preset(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mopd_ode\n  - _self_\nname: own\n"
        "model:\n  gradient_checkpointing: false\nphase:\n  micro_batch_size: 2\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    for order in (["+experiment=own", "hardware=gpu_24gb"], ["hardware=gpu_24gb", "+experiment=own"]):
        cfg = composed(search, *order)
        assert (cfg.phase.micro_batch_size, cfg.model.gradient_checkpointing) == (2, False)
        assert cfg.model.vae_tiling is True
    assert (
        composed("+experiment=mopd_ode", "hardware=gpu_24gb", "phase.micro_batch_size=1").phase[
            "micro_batch_size"
        ]
        == 1
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_known_settings(preset):
    values = plain_values(composed("+experiment=mopd_ode", f"hardware={preset}"))
    assert list(setting_problems(values, "train")) == []
    values = plain_values(composed("+experiment=mopd_ode", f"hardware={preset}", "+hardware.rows=3"))
    assert list(setting_problems(values, "train")) == [
        "hardware.rows is not a setting; it has micro_batch_size"
    ]


@pytest.mark.parametrize("experiment", ["mopd_ode", "teacher_ocr", "multi_nft"])
def test_eight_processes_need_prompts_in_multiples_of_eight(experiment):
    chosen = [f"+experiment={experiment}", "hardware=node_8x80gb"]
    tasks = list(composed(*chosen).data.tasks)
    problems = list(combination_problems(plain_values(composed(*chosen))))
    number = 4 if experiment == "mopd_ode" else 12 if experiment == "teacher_ocr" else 4
    assert problems == [
        f"data.tasks.{task}.prompts_per_round={number} must be a multiple of the number of processes, "
        "trainer.devices=8 times 1 node"
        for task in tasks
    ]
    enough = [f"data.tasks.{task}.prompts_per_round=24" for task in tasks]
    assert list(combination_problems(plain_values(composed(*chosen, *enough)))) == []
