"""Real experiments on a tiny model: a pipeline of the drawn world, random teachers, composed configs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from diffopd.adapter import LoRA, adapter_parameters, add_adapter, save_adapter
from diffopd.build.experiment import Experiment, build
from diffopd.config.folder import config_folder
from diffopd.data.figure_prompts import write_figure_prompts
from diffopd.files.paths import resolve_path
from diffopd.model import SD3Model
from diffopd.teacher import Recipe, TeacherCard
from support.pictures import write_pairs

TASKS = ("composition", "ocr", "aesthetic")
NUM_PROMPTS = 100
GUIDANCE = {"composition": 1.0, "ocr": 4.5, "aesthetic": 3.0, "signs": 2.0}
SMALL_TRANSFORMER = (
    "pipeline.transformer.num_layers=2",  # the last block lacks the text's output, attn.to_add_out
    "pipeline.transformer.attention_head_dim=8",
    "pipeline.transformer.num_attention_heads=2",
    "pipeline.transformer.caption_projection_dim=16",
)
SMALL_KLEIN = (
    "pipeline.transformer.num_layers=1",
    "pipeline.transformer.num_single_layers=1",
    "pipeline.transformer.attention_head_dim=8",
    "pipeline.transformer.num_attention_heads=2",
    "pipeline.transformer.joint_attention_dim=24",
    "pipeline.transformer.axes_dims_rope=[2,2,2,2]",
    "pipeline.text_encoder.hidden_size=8",
    "pipeline.text_encoder.intermediate_size=8",
    "pipeline.text_encoder.head_dim=4",
)
RUN = (
    "trainer.accelerator=cpu",
    "trainer.num_threads=1",
    "trainer.max_epochs=2",
    "logger=csv",
    "callbacks.round_checkpoint.every_n_rounds=1",
    "callbacks.samples.every_n_rounds=0",  # tests of samples ask for them
    "callbacks.samples.shares=[]",
    "callbacks.samples.shares=[]",
)

FORKED = (
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.num_threads=1",
    "trainer.strategy.start_method=fork",
)
"""Two processes that are copies of this one, made when training begins."""


@dataclass(frozen=True)
class TinyWorld:
    """A saved base pipeline, a random teacher on it for each task of ``GUIDANCE``, and few prompts a task."""

    pipeline: Path
    teachers: Mapping[str, Path]
    prompts: Mapping[str, Path]
    klein: Path

    def overrides(self, experiment: str) -> list[str]:
        """What makes an experiment small: the tiny model and adapter, the random teachers, few prompts."""
        if experiment in ("mini_autoencoder", "mini64_autoencoder"):
            return [*RUN, *SMALL_TRANSFORMER, *DRAWINGS]
        if experiment == "mini_klein_autoencoder":
            return [*RUN, *SMALL_KLEIN, *DRAWINGS]
        if experiment == "mini_klein_distil":
            tasks = (*TASKS, "figures")
            teachers = [f"teacher.teachers.{task}.path={self.klein}/transformer" for task in tasks]
            few = [f"data.tasks.{task}.prompts_per_round=1" for task in tasks]
            figures = self.pipeline.parent / "figures"
            if not figures.is_dir():
                write_figure_prompts(figures, seed=0, number=2, side=64)
            few.append(f"data.tasks.figures.path={figures}/prompts.jsonl")
            return [*RUN, f"model.path={self.klein}", *teachers, *few, "sampler.num_steps=4"]
        if experiment in ("mini_klein_pretrain", "mini_klein_more"):
            return [*RUN, f"pipeline.path={self.klein}", *DRAWINGS]
        if experiment in (
            "mini_pretrain",
            "mini_signs",
            "mini_more_signs",
            "mini_more",
            "mini64_pretrain",
            "mini64_more",
        ):
            return [*RUN, f"pipeline.path={self.pipeline}", "phase.num_drawings=8", *DRAWINGS]
        name, _, model = experiment.partition("@")
        if name in (*OF_PICTURES, "assistant"):  # on a pipeline of its own, if asked for: dopsd@<model>
            from support.tiny_dopsd import overrides_of

            return overrides_of(name, self.pipeline.parent, model or "flux2_klein")
        adapter = ["adapter.rank=2", "adapter.alpha=4"]
        if experiment == "sft_pairs":
            pairs = self.pipeline.parent / "captioned"
            if not pairs.is_dir():
                write_pairs(pairs)
            sizes = [f"data.path={pairs}", "data.prompts_per_round=2"]
            return [*RUN, f"model.path={self.pipeline}", *adapter, *sizes]
        tasks = tasks_of(experiment)
        if experiment.startswith("self_opd"):
            sizes = ["phase.num_branches=2", "phase.num_states=1"]
        elif experiment.startswith(REWARD_LEARNING):
            sizes = [f"data.tasks.{task}.group_size=3" for task in tasks]
        else:
            sizes = [f"teacher.teachers.{task}.path={self.teachers[task]}" for task in tasks]
            if experiment.startswith("absorb"):
                adapter = ["adapter.rank=3", "adapter.alpha=6", f"adapter.start={self.teachers[tasks[0]]}"]
            if experiment.startswith("flow_opd"):
                adapter = ["adapter.rank=3", "adapter.alpha=6"]  # the teachers', as it starts from their mean
                sizes += [f"adapter.merge.folders=[{','.join(str(self.teachers[task]) for task in tasks)}]"]
        for task in tasks:
            sizes += [
                f"data.tasks.{task}.prompts_per_round=2",
                f"data.tasks.{task}.path={self.prompts[task]}",
            ]
        return [*RUN, f"model.path={self.pipeline}", *adapter, *sizes]

    def config(self, experiment: str, folder: Path, *overrides: str) -> DictConfig:
        """The composed config of one experiment in its own folder."""
        small = self.overrides(experiment)
        if {"adapter=full", "adapter=whole"} & set(overrides):  # which has no rank
            small = [setting for setting in small if not setting.startswith("adapter.")]
        name = experiment.partition("@")[0]
        cfg = pickle.loads(_composed((f"+experiment={name}", *small, *overrides)))
        cfg.paths.run, cfg.paths.root = str(folder), str(folder.parent)
        return cfg

    def build(self, experiment: str, folder: Path, *overrides: str) -> Experiment:
        """The same, built."""
        return build(self.config(experiment, folder, *overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> bytes:
    """Hydra's work on what differs from test to test in its folder alone, pickled: copies are cheap."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return pickle.dumps(compose("train", overrides=list(overrides)))


OF_PICTURES = (
    "dopsd",
    "dopsd_keep",
    "sft_teacher_samples",
    "offpolicy_pairs",
    "dreambooth_pairs",
    "pso_pairs",
    "dpo_pairs",
    "sft_assistant",
)
"""Experiments of a few-step model and pictures."""
WITHOUT_REWARD = (*OF_PICTURES, "sft_pairs", "assistant", "mini_klein_distil")
"""Experiments that learn from pictures, or from samples as they are."""
REWARD_LEARNING = (
    *("teacher", "guard", "flow_grpo", "multi", "ram", "rvm", "self_opd", "few_step", "online_dpo"),
)
"""Beginnings of the names of experiments that learn from rewards."""
UNREPEATABLE = ("train/time/", "train/memory/")
DRAWINGS = ("data.num_drawings=8", "data.batch_size=2", "data.batches_per_round=1")


def tasks_of(experiment: str) -> tuple[str, ...]:
    """The tasks an experiment has prompts of."""
    last = experiment.rpartition("_")[2]
    return (last,) if last in TASKS else TASKS


def make_world(folder: Path) -> TinyWorld:
    """Save the pipeline and the teachers."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("pipeline/mini_untrained", overrides=["+seed=0", *SMALL_TRANSFORMER])
    pipeline = folder / "pipeline"
    instantiate(cfg.pipeline).save_pretrained(pipeline)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        settings = compose("train", overrides=["+data=prompts", f"model.path={pipeline}", "paths.run=."])
    model = instantiate(settings.model)
    targets = tuple(settings.adapter.target_modules)
    teachers = {}
    for seed, (task, scale) in enumerate(GUIDANCE.items()):
        add_adapter(
            model.transformer,
            task,
            LoRA(rank=3, alpha=6, init="gaussian", target_modules=targets, start=None),
            torch.Generator(),
        )
        randomise(model, task, seed)
        teachers[task] = save_adapter(model.transformer, task, folder / task)
        TeacherCard(
            name=task,
            task=task,
            guidance_scale=scale,
            base=model.identity,
            rank=3,
            alpha=6.0,
            scores={},
            recipe=Recipe(command="none", seed=seed, minutes=0.0, images=6, reward_calls=6, commit="none"),
        ).save(folder / task)
    prompts = {task: first_prompts(folder, settings.data.tasks[task].path) for task in TASKS}
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("pipeline/mini_klein_untrained", overrides=["+seed=0", *SMALL_KLEIN])
    klein = folder / "klein"
    instantiate(cfg.pipeline).save_pretrained(klein)
    return TinyWorld(pipeline, teachers, prompts, klein)


def first_prompts(folder: Path, path: str) -> Path:
    """The beginning of a prompt file: thousands of lines are read and checked whenever a training starts."""
    source = Path(resolve_path(path))
    copy = folder / f"{source.parent.name}{source.suffix}"
    copy.write_text("".join(source.read_text().splitlines(keepends=True)[:NUM_PROMPTS]))
    return copy


@torch.no_grad()
def randomise(model: SD3Model, adapter: str, seed: int) -> None:
    """Overwrite an adapter, ``B`` included, by random numbers that change the model clearly.

    Of a policy of whole weights, the numbers are added.
    """
    generator = torch.Generator().manual_seed(seed)
    if adapter in model.backbones.names:
        for parameter in model.backbones.named(adapter).parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        return
    for parameter in adapter_parameters(model.transformer, adapter).values():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@dataclass
class Rounds:
    """What the rounds of a run did.

    Attributes:
        experiment: The run.
        gradients: For each update, the trained adapter's gradients before clipping.
        metrics: What the last round logged, except time and memory.
    """

    experiment: Experiment
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def phase(self) -> Any:
        return self.experiment.phase

    def flat_gradient(self, update: int = 0) -> Tensor:
        """All gradients of one update as one vector."""
        return torch.cat([g.flatten() for g in self.gradients[update].values()])


def run_rounds(experiment: Experiment, *, student_seed: int | None = 7) -> Rounds:
    """Fit, recording every update's gradients.

    Args:
        experiment: A built run of a phase that trains an adapter.
        student_seed: Seed of a student with a non-zero ``B``, so that every gradient is non-zero; None leaves
            the student as built.
    """
    rounds = Rounds(experiment)
    phase: Any = experiment.phase
    if student_seed is not None:
        randomise(phase.model, "student", student_seed)
    take = phase.update

    def update() -> Tensor:
        parameters = phase.policies["student"].weights()
        # Qwen-Image's last block has a layer whose output nothing reads.
        found = {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in parameters.items()}
        rounds.gradients.append(found)
        return take()

    phase.update = update
    experiment.fit()
    logged = experiment.trainer.callback_metrics
    rounds.metrics = {name: float(logged[name]) for name in logged if not name.startswith(UNREPEATABLE)}
    return rounds


def relative_distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())
