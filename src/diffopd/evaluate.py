"""Score an adapter or the base model: ``python -m diffopd.evaluate adapter=<PEFT folder> benchmark=mini``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffopd.arguments import hydra_arguments
from diffopd.check import config_errors
from diffopd.command import command


@command("evaluate")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, make images, score, write."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Evaluate as ``cfg`` asks; writes ``results.json``, ``images.png`` and ``config.yaml``."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from rich.console import Console

    from diffopd.evaluation import Benchmark, check_benchmark, evaluate
    from diffopd.inference import load_model, trial_step
    from diffopd.report.images import ImageCollector
    from diffopd.report.results import results_table
    from diffopd.reward.failed_sample import failures_saved
    from diffopd.threads import choose_num_threads

    folder, console = Path(cfg.paths.run), Console()
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    benchmark: Benchmark = instantiate(cfg.benchmark)
    benchmark.prompts()  # a missing file is told before weights load
    if cfg.check_scorers:
        with failures_saved(folder, "check"):
            pairs: Any = OmegaConf.to_container(cfg.scorer_pairs, resolve=True)
            for line in check_benchmark(benchmark, pairs):
                print(f"scorer {line}")
    model, adapter = load_model(cfg, console)
    if model.device.type == "cpu":
        choose_num_threads(lambda: trial_step(model), cfg.num_threads)
    images = ImageCollector(num_per_task=cfg.num_shown, folder=folder / "images" if cfg.save_images else None)
    with failures_saved(folder, "evaluation"):
        result = evaluate(
            model,
            benchmark,
            batch_size=cfg.batch_size,
            adapter=adapter,
            guidance_scale=cfg.guidance_scale,
            on_images=images,
            label=f"evaluating {cfg.adapter_path or 'the base model'}",
            console=console,
        )
    result = dataclasses.replace(result, adapter=cfg.adapter_path)
    if result.tasks:
        console.print(results_table(result))
    paths = {
        "results": result.save(folder / "results.json"),
        "images": images.save_sheet(folder / "images.png"),
        "each image": images.folder,
    }
    for name, path in paths.items():
        if path is not None:
            print(f"{name + ':':<12} {path}")


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    main()
