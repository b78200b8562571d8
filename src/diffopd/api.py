"""What ``import diffopd`` offers: the commands as functions, with exceptions in place of exit codes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig, OmegaConf

from diffopd.check import ConfigError, config_errors
from diffopd.command.called import StoppedError, call_command, compose_command, equivalent_arguments
from diffopd.config.arguments import ADAPTER, hydra_arguments, quoted
from diffopd.config.saved import CONFIG, read_config

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from diffopd.build.experiment import Experiment
    from diffopd.evaluation import EvaluationResult
    from diffopd.model import PipelineModel
    from diffopd.types import Sampler

# What brings torch is imported inside functions: composing and checking a config does without.

__all__ = [
    "ConfigError",
    "Evaluation",
    "Model",
    "Run",
    "StoppedError",
    "build_experiment",
    "compose",
    "evaluate_model",
    "export_adapter",
    "image_sheet",
    "load_model",
    "push_to_hub",
    "sample_images",
    "train_model",
]

Place = str | os.PathLike[str]
"""A path; where weights are meant also ``package://...`` or ``owner/name`` on the hub."""


@dataclass(frozen=True)
class Run:
    """A training run's folder and what is in it.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))  # a text is what users have

    @property
    def config(self) -> DictConfig:
        """The resolved config.

        Raises:
            ValueError: If the folder is not a run's.
        """
        if not (self.folder / CONFIG).is_file():
            raise ValueError(f"{self.folder.absolute()} holds no {CONFIG}; give the folder of a run")
        return read_config(self.folder / CONFIG)

    @property
    def adapter(self) -> Path:
        """The trained adapter, a PEFT folder.

        Raises:
            ValueError: If there is none: the run is not finished, or trained a whole pipeline.
        """
        if not (self.folder / "adapter").is_dir():
            raise ValueError(
                f"{self.folder} holds no adapter: the run is not finished, or it trained a whole pipeline, "
                "which is in its pipeline folder"
            )
        return self.folder / "adapter"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end and reported."""
        from diffopd.run.finished import read_finished

        return read_finished(self.folder) is not None

    @property
    def metrics(self) -> list[dict[str, float]]:
        """What each round logged, by name, e.g. ``train/loss/opd``."""
        from diffopd.run.metrics_csv import METRICS, read_rows

        return [{name: float(text) for name, text in row.items()} for row in read_rows(self.folder / METRICS)]

    @property
    def result(self) -> EvaluationResult | None:
        """Scores of the report at the guidance of the training; None without a report (``~report``)."""
        from diffopd.evaluation import EvaluationResult

        config = self.config
        names = []
        if "sampler" in config:
            names.append(f"student_guidance_{config.sampler.guidance_scale:g}.json")
        if config.get("benchmark"):
            names.append(f"{config.benchmark.name}.json")
        files = [self.folder / "report" / name for name in names]
        return next((EvaluationResult.load(file) for file in files if file.is_file()), None)

    @property
    def scores(self) -> dict[str, float]:
        """Task -> mean reward of the report; empty without a report."""
        return _means(self.result)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        folder: Its folder: ``results.json``, the sheet, the images.
        result: Scores with intervals, by task, tag and image.
    """

    folder: Path
    result: EvaluationResult

    @property
    def scores(self) -> dict[str, float]:
        """Task -> mean reward."""
        return _means(self.result)

    @property
    def sheet(self) -> Path:
        """The first images of each task, a PNG."""
        return self.folder / "images.png"


def _means(result: EvaluationResult | None) -> dict[str, float]:
    return {} if result is None else {task: value.mean for task, value in result.estimates.items()}


@dataclass(frozen=True)
class Model:
    """A loaded model with its adapters and how it is sampled.

    Attributes:
        backbone: The model on its device, with the adapters on it.
        adapters: Their names.
        sampler: The sampler of :func:`sample_images`.
        guidance_scale: Guidance unless another is asked for; 1 = none.
    """

    backbone: PipelineModel
    adapters: tuple[str, ...]
    sampler: Sampler
    guidance_scale: float


def compose(
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config_dir: Place | None = None,
) -> DictConfig:
    """The config of a training, as ``diffopd train`` composes it.

    It may be changed before it is used; ``paths.run``, the run's folder, follows ``paths.root``, ``name`` and
    ``run_id``. Nothing is checked or written yet.

    Args:
        experiment: A file of ``conf/experiment``, e.g. ``mopd_ode``; None: ``overrides`` name all.
        overrides: As on the command line: ``["trainer.max_epochs=2", "sampler=cps"]``. A sweep takes the
            command line.
        config_dir: A folder with configs of your own beside the package's.

    Returns:
        The composed config.

    Raises:
        ConfigError: If there is no such experiment or setting, with what was probably meant.
    """
    if experiment is not None and "=" in experiment:
        name = experiment.rpartition("=")[2]
        raise ConfigError(f"experiment={experiment!r} must be the name alone, as in compose({name!r})")
    chosen = [] if experiment is None else [f"+experiment={experiment}"]
    return compose_command("train", [*chosen, *_listed(overrides)], config_dir=config_dir)


def build_experiment(config: DictConfig) -> Experiment:
    """The phase, data and trainer of a config, with weights loaded, ready to run.

    For looking at the parts and for loops of your own. :func:`train_model` is what keeps other processes out
    of the run's folder.

    Args:
        config: Of :func:`compose`.

    Returns:
        The built experiment.

    Raises:
        ConfigError: If the config cannot work.
    """
    from diffopd.build.experiment import build

    _check_composed(config)
    return build(copy.deepcopy(config))


def train_model(config: DictConfig) -> Run:
    """Train as ``diffopd train`` does: alone in the run's folder, resumed, checked, reported.

    A run of the same settings in the folder is resumed (``resume=auto``); a finished one is reported again,
    or left as it is with ``if_finished=skip``. SIGTERM and Ctrl-C let the round end and save a checkpoint.

    Args:
        config: Of :func:`compose`.

    Returns:
        The finished run.

    Raises:
        ConfigError: If the config cannot work, or the folder holds a run with other settings.
        StoppedError: If it was asked to end before it was done; the same call resumes it.
    """
    from diffopd.run.recorded import typed
    from diffopd.train import train

    _check_composed(config)
    with typed(equivalent_arguments(config)):
        call_command(train, copy.deepcopy(config), "train")
    return Run(Path(config.paths.run))


def _listed(overrides: object) -> list[str]:
    """Overrides as a list; a single text would be read letter by letter, and a mapping has its keys alone."""
    if isinstance(overrides, (str, bytes, Mapping)) or not isinstance(overrides, Iterable):
        raise ConfigError(
            f'overrides={overrides!r} must be a list of texts, as in ["trainer.max_epochs=2", "seed=1"]'
        )
    return [str(override) for override in overrides]


def _check_composed(config: object) -> None:
    """Whether it is what :func:`compose` returns, with a name for its folder."""
    if not isinstance(config, DictConfig) or "paths" not in config:
        raise ConfigError(
            f"config must be what diffopd.compose(...) returns, got a {type(config).__name__}; "
            'as in train_model(compose("mopd_ode"))'
        )
    if OmegaConf.is_missing(config, "name"):
        raise ConfigError('name is required; start from an experiment, compose("mopd_ode"), or give name=...')


def load_model(
    name: str = "mini_sd3",
    *,
    path: Place | None = None,
    adapter: Place | Mapping[str, Place] | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> Model:
    """A model on its device, with any number of adapters.

    Args:
        name: A file of ``conf/model``; ``mini_sd3`` is the embedded model.
        path: Where its pipeline lies, if not where that file says.
        adapter: A LoRA in any format or a whole transformer of the same architecture; or several by name.
        device: ``auto`` = a GPU if there is one; or ``cpu``, ``cuda:1``, ``mps``.
        overrides: Of ``conf/sample.yaml``, e.g. ``["sampler.num_steps=28", "model.dtype=bf16"]``.

    Returns:
        The model. A single adapter is called ``student``.

    Raises:
        ConfigError: If there is no such model, or an adapter does not fit, found before weights load.
    """
    from diffopd.build.trained_model import ADAPTER as STUDENT
    from diffopd.build.trained_model import load_with_adapters

    if adapter is not None and not isinstance(adapter, (str, os.PathLike, Mapping)):
        raise ConfigError(
            f"adapter={adapter!r} must be a path, or several by name, as in "
            '{"teacher": "package://assets/teachers/ocr"}'
        )
    if adapter is None:
        places: dict[str, str] = {}
    elif isinstance(adapter, Mapping):
        places = {key: os.fspath(value) for key, value in adapter.items()}
    else:
        places = {STUDENT: os.fspath(adapter)}
    given = [f"model={name}", "prompt=", f"device={device}"]
    given += [] if path is None else [f"model.path={quoted(os.fspath(path))}"]
    cfg = compose_command("sample", [*given, *_listed(overrides)], arguments=hydra_arguments, short=ADAPTER)
    loaded: list[Model] = []

    @config_errors()
    def load(cfg: DictConfig) -> None:
        from hydra.utils import instantiate
        from rich.console import Console

        sampler = instantiate(cfg.sampler)
        backbone = load_with_adapters(cfg, places, Console(stderr=True))
        loaded.append(Model(backbone, tuple(places), sampler, float(cfg.guidance_scale)))

    call_command(load, cfg, "sample", short=ADAPTER)
    return loaded[0]


def sample_images(
    model: Model,
    prompts: str | Sequence[str],
    *,
    num_images: int = 1,
    adapter: str | Literal["auto"] | None = "auto",
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Images of prompts, as ``diffopd sample`` makes them.

    Image ``i`` of a seed starts from the same noise for every prompt and adapter, so models can be compared
    image by image.

    Args:
        model: Of :func:`load_model`.
        prompts: One or several.
        num_images: Of each prompt, from different noise.
        adapter: Name of one of the model's adapters; ``auto`` = its only one, or none if it has none; None =
            the base model.
        guidance_scale: At least 0, 1 = none; None = the model's.
        seed: Of the noise.
        batch_size: Images made together.

    Returns:
        Float tensor ``(prompts * num_images, 3, height, width)`` in [0, 1] on the CPU, prompt by prompt.

    Raises:
        ValueError: If there is no such adapter, or a number is out of range.
    """
    from diffopd.sample import draw

    if adapter == "auto":
        if len(model.adapters) > 1:
            raise ValueError(f"adapter: the model has several, name one of {', '.join(model.adapters)}")
        adapter = next(iter(model.adapters), None)
    elif adapter is not None and adapter not in model.adapters:
        there = ", ".join(model.adapters) or "none"
        raise ValueError(f"adapter={adapter}: the model has {there}; load it with load_model(adapter=...)")
    return draw(
        model.backbone,
        list(prompts) if isinstance(prompts, Iterable) and not isinstance(prompts, str) else [prompts],
        num_images=num_images,
        adapter=adapter,
        sampler=model.sampler,
        guidance_scale=model.guidance_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        batch_size=batch_size,
    )


def image_sheet(images: Tensor, labels: Sequence[str], *, num_columns: int = 6) -> Image:
    """Images in reading order on one sheet, each with its label below; small ones are enlarged.

    Args:
        images: ``(batch, 3, height, width)`` in [0, 1].
        labels: One per image.
        num_columns: Images in a row.

    Returns:
        A picture, which a notebook shows and ``.save("sheet.png")`` writes.
    """
    from diffopd.files.grid import image_sheet as sheet_of

    return sheet_of(images, labels, num_columns=num_columns)


def evaluate_model(
    adapter: Place | None = None, *, benchmark: str = "mini", overrides: Sequence[str] = ()
) -> Evaluation:
    """Score an adapter, or the base model, as ``diffopd evaluate`` does.

    The same call finds its folder again: one that was cut short is resumed, a finished one is read.

    Args:
        adapter: A LoRA in any format or a whole transformer; None = the base model.
        benchmark: A file of ``conf/benchmark``.
        overrides: Of ``conf/evaluate.yaml``, e.g. ``["model=sd3_5_medium", "guidance_scale=1"]``.

    Returns:
        The finished evaluation.

    Raises:
        ConfigError: If the config cannot work.
        StoppedError: If one of several processes (``devices=4``) ended before it was done.
    """
    from diffopd.evaluate.__main__ import run
    from diffopd.evaluate.folder import EvaluationFolder
    from diffopd.evaluate.settings import register_evaluation_id
    from diffopd.evaluation import EvaluationResult

    register_evaluation_id()
    given = [] if adapter is None else [f"adapter={quoted(os.fspath(adapter))}"]
    given += [f"benchmark={benchmark}", *_listed(overrides)]
    cfg = compose_command("evaluate", given, arguments=hydra_arguments, short=ADAPTER)
    folder = EvaluationFolder(Path(cfg.paths.run))  # before the commit of a model on the hub is put in
    call_command(config_errors()(run), cfg, "evaluate", short=ADAPTER)
    return Evaluation(folder.path, EvaluationResult.load(folder.results))


def export_adapter(
    source: Run | Place,
    to: Place,
    *,
    format: str = "diffusers",
    push_to_hub: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Hand an adapter on to other tools, as ``diffopd export`` does: written, read back, compared.

    Args:
        source: A finished run or its folder; or an adapter, on the model that ``overrides`` choose.
        to: Folder to make; must not be there, or be empty.
        format: ``peft``, ``diffusers``, ``comfyui`` or ``merged``.
        push_to_hub: ``owner/name`` on the hub that gets the folder in one commit; None = none.
        overrides: Of ``conf/export.yaml``, e.g. ``["model_dtype=bf16"]``.

    Returns:
        The folder, with a model card.

    Raises:
        ConfigError: If the adapter does not fit, changes nothing, or reads back as something else, or the hub
            does not take it.
    """
    from diffopd.export.__main__ import run
    from diffopd.files.paths import expanded

    place = os.fspath(source.folder if isinstance(source, Run) else source)
    setting = "run" if isinstance(source, Run) or (Path(place) / CONFIG).is_file() else "adapter"
    given = [f"{setting}={quoted(place)}", f"to={quoted(os.fspath(to))}", f"format={format}"]
    given += [] if push_to_hub is None else [f"push_to_hub={quoted(push_to_hub)}"]
    cfg = compose_command("export", [*given, *_listed(overrides)], arguments=hydra_arguments, short=ADAPTER)
    call_command(config_errors()(run), cfg, "export", short=ADAPTER)
    return expanded(os.fspath(to))


def push_to_hub(folder: Place, repository: str, *, private: bool = True) -> str:
    """Put an exported folder on the hub, in one commit: all of it is there afterwards, or nothing.

    The token is that of the environment (``HF_TOKEN``) or of ``hf auth login``.

    Args:
        folder: Of :func:`export_adapter`.
        repository: ``owner/name``; made if it is not there.
        private: Whether a repository that is made is private; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If there is no network, token or permission, or the repository holds other files.
    """
    from diffopd.export.hub import push

    return push(Path(folder), repository, private=private)
