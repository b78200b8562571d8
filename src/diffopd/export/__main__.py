"""Hand a trained adapter on: ``python -m diffopd.export run=<run folder> format=diffusers to=<folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.start import begin

    begin()

from pathlib import Path

from omegaconf import DictConfig

from diffopd.arguments import ADAPTER, hydra_arguments
from diffopd.check import config_errors
from diffopd.command import command


@command("export", arguments=hydra_arguments, short=ADAPTER)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, write, read back, compare."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Export as ``cfg`` asks."""
    from hydra.utils import instantiate

    from diffopd.export.formats import format_of
    from diffopd.export.source import read_source
    from diffopd.export.write import check_target, export
    from diffopd.inference import chosen_device
    from diffopd.precision import parse_dtype
    from diffopd.quiet import silence_known_noise

    silence_known_noise()
    to = Path(cfg.to).expanduser()
    check_target(to)
    source = read_source(cfg)
    dtype = parse_dtype(source.model.dtype, "model.dtype")
    written_as = format_of(cfg.format, dtype=dtype, whole_pipeline=cfg.whole_pipeline)
    model = instantiate(source.model)
    if cfg.compare_in_fp32:
        model.transformer.float()
    model = model.to(chosen_device(cfg.device))
    verification = export(model, source, written_as, to, tolerance=cfg.tolerance)
    print(f"read back: {verification}")
    print(f"{cfg.format}: {to}")
    print(f"model card: {to / 'README.md'}")


if __name__ == "__main__":
    main()
