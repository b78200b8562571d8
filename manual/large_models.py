"""What diffopd uses for large models unless it is told otherwise, for the page on learning rates."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from settings_page import table

from diffopd.config.folder import config_folder

EXPERIMENTS = (
    "mopd_ode",
    "mopd_sft",
    "mopd_dmd",
    "mopd_tdm",
    "teacher_composition",
    "guard_composition",
    "flow_grpo_composition",
)
"""One of each method."""

COLUMNS = ["`+experiment=`", "`optimizer.lr`", "LoRA", "Images of a round", "Updates", "Steps", "Guidance"]


def defaults() -> str:
    """The settings of each method with ``model=sd3_5_medium``, as they compose."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return table(COLUMNS, map(_line, EXPERIMENTS))


def _line(name: str) -> list[str]:
    cfg = compose("train", overrides=[f"+experiment={name}", "model=sd3_5_medium"])
    lr = f"{cfg.optimizer.lr:g}"
    if "fake_optimizer" in cfg.phase:
        lr += f", fake score {cfg.phase.fake_optimizer.lr:g}"
    images = [f"{task.prompts_per_round} x {task.group_size}" for task in cfg.data.tasks.values()]
    several = f"{len(images)} x " if len(images) > 1 else ""
    assert len(set(images)) == 1
    return [
        f"`{name}`",
        lr,
        f"{cfg.adapter.rank} / {cfg.adapter.alpha:g}",
        f"{several}{images[0]}",
        str(cfg.phase.get("updates_per_round", 1)),
        str(cfg.sampler.num_steps),
        f"{cfg.sampler.guidance_scale:g}",
    ]


if __name__ == "__main__":
    print(defaults())
