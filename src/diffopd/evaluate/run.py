"""One process of an evaluation: from a composed config to records, and in the first process to results."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffopd.build.pin import pin_model
from diffopd.build.trained_model import load_model, trial_step
from diffopd.evaluate.folder import EvaluationFolder, made_from
from diffopd.evaluate.settings import taken_adapter
from diffopd.evaluation import (
    Benchmark,
    EvaluationResult,
    ImageProgress,
    check_benchmark,
    conditions_of,
    held_out_conditions_of,
    measure,
    result_of,
)
from diffopd.evaluation.processes import Processes
from diffopd.host.threads import available_cores, choose_num_threads
from diffopd.model import PipelineModel
from diffopd.report.run.images import ImageCollector
from diffopd.report.run.results import results_table
from diffopd.reward.failed_sample import failures_saved
from diffopd.run.lock import locked
from diffopd.types.size import height_and_width


def evaluate_share(cfg: DictConfig, processes: Processes) -> None:
    """Make and score this process's share of the images; the first process checks, tells and writes."""
    with locked(Path(cfg.paths.run)) if processes.first else contextlib.nullcontext():
        _evaluate_share(cfg, processes)


def _evaluate_share(cfg: DictConfig, processes: Processes) -> None:
    console = Console() if processes.first else Console(file=io.StringIO())  # the others say nothing
    folder = EvaluationFolder(Path(cfg.paths.run))
    settings: Any = OmegaConf.to_container(cfg.benchmark, resolve=True)
    benchmark: Benchmark = dataclasses.replace(instantiate(cfg.benchmark), settings=settings)
    prompts = benchmark.prompts()  # a missing file is told before weights load
    if cfg.adapter_path is not None:  # once for all processes: a run in training moves on meanwhile
        cfg.adapter_path = processes.told_by_first(lambda: taken_adapter(cfg, cfg.adapter_path))
    pin_model(cfg)
    pictures = folder.images if cfg.save_images else folder.progress / "shown"
    images = ImageCollector(num_per_task=cfg.num_shown, folder=pictures, save_all=cfg.save_images)

    def prepare() -> bool:
        if folder.open(cfg, made_from(cfg, prompts)):
            return True
        if cfg.check_scorers:
            with failures_saved(folder.path, "check"):
                pairs: Any = OmegaConf.to_container(cfg.scorer_pairs, resolve=True)
                side = min(height_and_width(cfg.model.image_size))
                for line in check_benchmark(benchmark, pairs, side=side):
                    print(f"scorer {line}")
        return False

    if processes.told_by_first(prepare):
        if processes.first:
            _show_finished(folder, console)
        return
    model, adapter = load_model(cfg, console)
    if model.device.type == "cpu":
        cores = max(1, available_cores() // processes.local_count)
        choose_num_threads(lambda: trial_step(model), cfg.num_threads, cores=cores)
    records, label = folder.records, f"evaluating {cfg.adapter_path or 'the base model'}"
    total, done = sum(map(len, prompts.values())), records.count()
    with (
        failures_saved(folder.path, "evaluation"),
        ImageProgress(label, total, console=console, done=done) as progress,
    ):
        for _ in measure(
            model,
            benchmark,
            records,
            batch_size=cfg.batch_size,
            adapter=adapter,
            guidance_scale=cfg.guidance_scale,
            on_images=images,
            processes=processes,
        ):
            if processes.first:
                progress.reach(records.count())
        processes.wait()
        if processes.first:
            progress.reach(total)
    if processes.first:
        _finish(cfg, model, benchmark, folder, images, console)


def _finish(
    cfg: DictConfig,
    model: PipelineModel,
    benchmark: Benchmark,
    folder: EvaluationFolder,
    images: ImageCollector,
    console: Console,
) -> None:
    """Turn the records into results."""
    result = result_of(
        benchmark,
        folder.records,
        adapter=cfg.adapter_path,
        guidance_scale=float(cfg.guidance_scale),
        conditions=conditions_of(benchmark, model),
        held_out_conditions=held_out_conditions_of(benchmark, model),
    )
    images.save_sheet(folder.sheet, benchmark.prompts())
    result.save(folder.results)  # from here on it is finished
    folder.remove_progress()
    _show(result, folder, console)


def _show_finished(folder: EvaluationFolder, console: Console) -> None:
    folder.remove_progress()
    print("already evaluated; resume=never evaluates again and keeps the old files in previous_<n>")
    _show(EvaluationResult.load(folder.results), folder, console)


def _show(result: EvaluationResult, folder: EvaluationFolder, console: Console) -> None:
    if result.tasks:
        console.print(results_table(result))
    for name, path in {
        "results": folder.results,
        "images": folder.sheet,
        "each image": folder.images,
    }.items():
        if path.exists():
            print(f"{name + ':':<12} {path}")
