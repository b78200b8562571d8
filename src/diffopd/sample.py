"""Draw a prompt: ``python -m diffopd.sample prompt="a photo of a red circle" adapter=<PEFT folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command
from diffopd.config.arguments import ADAPTER, hydra_arguments


@command("sample", arguments=hydra_arguments, short=ADAPTER)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, draw, save."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Draw as ``cfg`` asks; writes each image in its own size, and an enlarged sheet of them."""
    import torch
    from hydra.utils import instantiate
    from rich.console import Console

    from diffopd.build.trained_model import load_model
    from diffopd.evaluation import ImageProgress, generate_batches
    from diffopd.files.grid import image_sheet
    from diffopd.files.png import save_png
    from diffopd.types import Prompts

    prompt, count, folder = str(cfg.prompt), int(cfg.num_images), Path(cfg.paths.run)
    if count < 1:
        raise ValueError(f"num_images={count} must be at least 1")
    sampler = instantiate(cfg.sampler)
    model, adapter = load_model(cfg, Console())
    numbers = tuple(range(count))
    prompts = Prompts((prompt,) * count, ("sample",) * count, ({},) * count, numbers, (0,) * count)
    batches = generate_batches(
        model,
        prompts,
        sampler=sampler,
        guidance_scale=cfg.guidance_scale,
        adapters=adapter,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
    )
    parts = []
    # standard output is for the paths alone, which a script may read
    with ImageProgress("drawing", count, console=Console(stderr=True)) as progress:
        for _, made in batches:
            parts.append(made)
            progress.advance(len(made))
    images = torch.cat(parts)
    for number, image in enumerate(images):
        print(save_png(image, folder / f"{number:03d}.png"))
    print(save_png(image_sheet(images, [f"{prompt} ({number})" for number in numbers]), folder / "sheet.png"))


if __name__ == "__main__":
    main()
