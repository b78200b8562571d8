"""Hand a trained adapter on: ``python -m diffopd.export run=<run folder> format=diffusers to=<folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command
from diffopd.config.arguments import ADAPTER, hydra_arguments
from diffopd.files.paths import expanded


@command("export", arguments=hydra_arguments, short=ADAPTER)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, write, read back, compare."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Export as ``cfg`` asks."""
    import torch
    from hydra.utils import instantiate

    from diffopd.export.formats import format_of
    from diffopd.export.hub import check_hub, push
    from diffopd.export.memory import memory_needed
    from diffopd.export.source import read_source
    from diffopd.export.write import check_target, export
    from diffopd.host.device import device_of_model
    from diffopd.host.quiet import silence_known_noise
    from diffopd.types.precision import parse_dtype
    from diffopd.weights.hub import tell_at_once

    silence_known_noise()
    tell_at_once()
    to = expanded(cfg.to)
    check_target(to)
    if cfg.push_to_hub is not None:
        if not cfg.hub_private and cfg.license is None:
            raise ValueError(
                "hub_private=false needs license=...: whoever finds public weights has to know what they may "
                "do with them (license=apache-2.0, or license=other and your own text in the card)"
            )
        check_hub(cfg.push_to_hub, private=cfg.hub_private)  # before minutes of work
    source = read_source(cfg)
    dtype = parse_dtype(source.model.dtype, "model.dtype")
    device = device_of_model(cfg.device)
    written_as = format_of(
        cfg.format,
        dtype=dtype,
        compared_in=torch.float32 if cfg.compare_in_fp32 else dtype,
        device=device,
        whole_pipeline=cfg.whole_pipeline,
    )
    # Encoders on the device for one prompt alone: with the transformer in fp32 they would not fit many GPUs.
    model = instantiate(source.model, offload_text_encoders=True).to(device)
    print(memory_needed(model, written_as.compared_in), flush=True)
    verification = export(model, source, written_as, to, tolerance=cfg.tolerance, license=cfg.license)
    print(f"read back: {verification}")
    print(f"{cfg.format}: {to}")
    print(f"model card: {to / 'README.md'}")
    if cfg.push_to_hub is not None:
        try:
            print(f"pushed: {push(to, cfg.push_to_hub, private=cfg.hub_private)}")
        except ValueError as error:
            private = " --private" if cfg.hub_private else ""
            raise ValueError(
                f"{error}\nThe export in {to} is complete; later: hf upload {cfg.push_to_hub} {to} .{private}"
            ) from error


if __name__ == "__main__":
    main()
