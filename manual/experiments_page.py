"""The page of all experiments: one line each, from ``conf/experiment`` as it composes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from settings_page import table

from diffopd.config.folder import config_folder

HEAD = """# Experiments

One line for each file of `conf/experiment`, made from the files whenever the documentation is built. The
command of a line is `python -m diffopd.train +experiment=<name>`; what phases do is on the page
[phase](../phase.md), what each choice is in [settings](settings.md). Rounds and settings are those of the
embedded model, which every experiment trains unless another `model=` is chosen.
"""

ABLATIONS = """
## Ablations

Each is a sweep: `python -m diffopd.train +experiment=ablation/<name>` runs one job after the other, and
`python -m diffopd.ablations` runs several sweeps side by side ([ablations](../ablations.md)).
"""

OF = re.compile(r"\(([^()]*(?:Table|Figure|Section)[^()]*)\)$")
"""What a comment names of the paper, at its end."""

LEARNED = {
    "autoencoder": "the embedded model's autoencoder",
    "pretrain": "the embedded model's transformer and text encoders",
    "gradient_variance": "nothing: it measures",
}
"""Phases that train no adapter."""


def page() -> str:
    """The whole page."""
    folder = Path(config_folder()) / "experiment"
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        single = table(
            ["Experiment", "What it asks", "In the paper", "Trains", "Phase", "Sampler", "Loss", "Rounds"],
            map(_line, sorted(folder.glob("*.yaml"))),
        )
        sweeps = table(
            ["Ablation", "What it asks", "Starts from", "Varies"],
            map(_sweep, sorted((folder / "ablation").glob("*.yaml"))),
        )
    return "\n".join([HEAD, single, ABLATIONS, sweeps, ""])


def _composed(name: str) -> DictConfig:
    return compose("train", overrides=[f"+experiment={name}"], return_hydra_config=True)


def _line(file: Path) -> Sequence[str]:
    cfg = _composed(file.stem)
    choices = cfg.hydra.runtime.choices
    question, paper = _question(file)
    rolls_out = choices.get("sampler") not in (None, "null")
    noise = f", noise {cfg.sampler.noise_level:g}" if rolls_out else ""
    return [
        f"`{file.stem}`",
        question,
        paper,
        _trained(cfg, choices),
        f"`{choices['phase']}`",
        f"`{choices['sampler']}`{noise}, {cfg.sampler.num_steps} steps" if rolls_out else "",
        f"`{choices['loss']}`" if "loss" in choices else "",
        str(cfg.trainer.max_epochs),
    ]


def _question(file: Path) -> tuple[str, str]:
    """The line that a file opens with, without the parts of the paper that it ends in; and these."""
    opening = next(
        line.removeprefix("# ")
        for line in file.read_text(encoding="utf-8").splitlines()
        if not line.startswith("# @package")
    )
    found = OF.search(opening)
    return (opening[: found.start()].rstrip(), found[1]) if found else (opening, "")


def _trained(cfg: DictConfig, choices: Any) -> str:
    phase = choices["phase"]
    if phase in LEARNED:
        return LEARNED[phase]
    if "tasks" not in cfg.data:
        itself = " that is its own teacher" if "teacher" in cfg else ""
        return f"a student{itself}, on captioned pictures"
    if "teacher" in cfg:
        names = ", ".join(cfg.teacher.teachers)
        many = len(cfg.teacher.teachers) > 1
        return f"a student of the teacher{'s' if many else ''} {names}"
    tasks = ", ".join(cfg.data.tasks)
    if "reward" not in choices:
        return f"an adapter, on the base model's samples (prompts: {tasks})"
    return f"an adapter, on the reward `{choices['reward']}` (prompts: {tasks})"


def _sweep(file: Path) -> Sequence[str]:
    node = OmegaConf.load(file)
    assert isinstance(node, DictConfig)
    cfg = _composed(f"ablation/{file.stem}")
    start = ", ".join(f"`{name}`" for name in _starts(node))
    varied = dict(cfg.hydra.sweeper.params or {})
    seeds = str(varied.pop("seed", ""))
    parts = [f"`{key}={value}`" for key, value in varied.items()]
    if seeds:
        parts.append(f"seeds {seeds}")
    return [f"`{file.stem}`", _question(file)[0], start, "; ".join(parts)]


def _starts(node: DictConfig) -> Iterator[str]:
    """The experiments that a file's defaults name."""
    for entry in node.get("defaults", ()):
        name = entry if isinstance(entry, str) else ""
        if name != "_self_" and name:
            yield name.removeprefix("/experiment/")
