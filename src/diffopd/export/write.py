"""Write, read back, compare, describe; only what passed appears where it was asked for."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch

from diffopd.adapter import find_place
from diffopd.export.formats import Format
from diffopd.export.model_card import SAMPLES, CardFacts, hashes, model_card
from diffopd.export.source import Source
from diffopd.export.verify import (
    MOST_ROUNDING,
    Verification,
    check_effect,
    largest,
    release,
    states,
    velocities,
    velocities_of,
)
from diffopd.files.atomic import flush, flush_all, replacing
from diffopd.model import PipelineModel, pipeline_folder
from diffopd.teacher import load_frozen

log = logging.getLogger(__name__)

ADAPTER = "exported"
"""Name of the adapter on the model."""


def check_target(to: Path) -> None:
    """Refuse a place that holds something already.

    Raises:
        ValueError: If it does.
    """
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise ValueError(f"to={to} is not empty; give a new folder")


def export(
    model: PipelineModel,
    source: Source,
    written_as: Format,
    to: Path,
    *,
    tolerance: float,
    license: str | None,
) -> Verification:
    """Export an adapter, or all weights of a transformer.

    Everything is written beside ``to`` and moved there in one step at the end, so an export that fails leaves
    nothing. The prompt is encoded first; then one transformer is in memory at a time: the model's own, whose
    weights are given back, then the one that is read back.

    Args:
        model: The base model, without the adapter; its transformer has no weights afterwards.
        source: What is exported.
        written_as: The format.
        to: The folder to make.
        tolerance: Largest difference of velocities after reading back, as a share of the adapter's effect.
        license: License of the weights as the hub names it, for the card; None = not stated.

    Returns:
        The comparison.

    Raises:
        ValueError: If the adapter does not fit or changes nothing, ``to`` is not empty, or what was read back
            differs.
    """
    check_target(to)
    setting = "run" if source.run else "adapter"
    if find_place(source.adapter, setting=setting).kind == "transformer" and not written_as.whole_model:
        raise ValueError(
            f"{setting}={source.run or source.adapter} is a whole transformer (adapter=full), which is no "
            f"{written_as.title}; choose format=merged"
        )
    load_frozen(model, ADAPTER, source.adapter, setting=setting)
    log.info("encoding a prompt")
    at = states(model)
    exact = written_as.compared_in == torch.float32
    log.info("asking the base and the adapter for velocities")
    if exact:
        model.transformer.float()
        model.backbones.float()
    unadapted, adapted = velocities(model, at), velocities(model, at, ADAPTER)
    effect = largest(adapted - unadapted)
    check_effect(effect, f"{setting}={source.run or source.adapter}")
    expected = adapted if exact else written_as.rounded(model, ADAPTER, at)
    rounding = largest(expected - adapted)
    if rounding > MOST_ROUNDING * effect:
        raise ValueError(
            f"in {written_as.compared_in} rounding alone changes velocities by up to {rounding:.1e}, where "
            f"the adapter changes them by up to {effect:.1e}, so nothing can be verified; compare in fp32 "
            f"(compare_in_fp32=true). {written_as.if_rounded}"
        )
    base = pipeline_folder(source.model.path, source.model.revision)
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        log.info("writing %s", written_as.title)
        files = written_as.write(model, ADAPTER, base, aside)
        release(model)
        log.info("reading it back and comparing")
        found = velocities_of(model, at, written_as.read(model, base, aside))
        verification = Verification(largest(found - expected), effect, rounding)
        if not verification.ratio <= tolerance:
            raise ValueError(
                f"the export was read back and differs: {verification}; the share {verification.ratio:.2g} "
                f"is above tolerance={tolerance:g}. {written_as.if_different}"
            )
        has_samples = source.run is not None and (source.run / SAMPLES).is_file()
        if source.run is not None and has_samples:
            shutil.copyfile(source.run / SAMPLES, aside / SAMPLES.name)
        license_files = _copy_license(base, aside)
        if source.card is not None and written_as.keeps_card:
            shutil.copyfile(source.card, aside / source.card.name)
        log.info("hashing what was written, for the model card")
        facts = CardFacts(
            written_as=written_as,
            files=hashes(files, aside),
            base_identity=model.identity,
            verification=verification,
            has_samples=has_samples,
            license=license,
            license_files=license_files,
        )
        with replacing(aside / "README.md") as temporary:
            temporary.write_text(model_card(source, facts), encoding="utf-8")
        flush_all(aside)
        if to.is_dir():
            to.rmdir()
        aside.rename(to)
        flush(to.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return verification


def _copy_license(base: Path, folder: Path) -> list[str]:
    """Copy the license that comes with a base model, if one does.

    Returns:
        The names of its files.
    """
    found = [file for file in sorted(base.glob("LICENSE*")) if file.is_file()]
    for file in found:
        shutil.copyfile(file, folder / file.name)
    return [file.name for file in found]
