"""The README.md of exported weights: what they are, what they were made of, how they did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffopd.adapter import find_place
from diffopd.config.guidance import trained_guidance
from diffopd.export.formats import Format
from diffopd.export.source import Source
from diffopd.export.verify import Verification
from diffopd.files.fingerprint import sha256_of
from diffopd.files.markdown import markdown_table
from diffopd.files.paths import home, is_hub_path
from diffopd.teacher import TeacherCard
from diffopd.types.size import height_and_width

TABLE = Path("report/table.md")
SAMPLES = Path("report/samples.png")
_UNIMPORTANT = ("paths", "callbacks", "logger", "report", "debug", "resume", "if_finished", "hydra")
"""Parts of a run's config that say nothing of the weights."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card states beside its source.

    Attributes:
        written_as: The format.
        files: Name and SHA-256 of each file of weights.
        base_identity: Hash of the base model.
        verification: How the files compared after they were read back.
        has_samples: Whether ``samples.png`` lies beside the card.
        license: License of the weights as the hub names it; None = not stated.
        license_files: Files of the base model's license that lie beside the card.
    """

    written_as: Format
    files: Mapping[str, str]
    base_identity: str
    verification: Verification
    has_samples: bool
    license: str | None
    license_files: Sequence[str]


def model_card(source: Source, facts: CardFacts) -> str:
    """The card as Markdown, with the front matter that the hub reads."""
    base = str(source.model.path)
    name = base if is_hub_path(base) else Path(base).name
    parts = [
        _front_matter(name if is_hub_path(base) else None, facts),
        f"# {_title(source)}\n\nA {facts.written_as.title}, exported by diffopd.",
        _section("Use", f"```\n{facts.written_as.usage}\n```\n\n{_sampling(source)}"),
        _section("Base model", _base(name, source, facts)),
    ]
    teachers = _teachers(source)
    if teachers:
        parts.append(_section("Teachers", teachers))
    if source.recipe:
        parts.append(_section("Training", _recipe(source.recipe)))
    parts.append(_section("Scores", _scores(source)))
    if facts.has_samples:
        parts.append(_section("Samples", "![Base, teacher and student, same prompts and noise](samples.png)"))
    digests = [(f"`{file}`", f"`{digest}`") for file, digest in facts.files.items()]
    files = markdown_table(["File", "SHA-256"], digests, texts=(0, 1))
    parts.append(
        _section(
            "Files",
            f"{files}\n\nRead back and compared with the adapter: {facts.verification}.",
        )
    )
    parts.append(_section("License", _license(name, bool(teachers), facts)))
    if source.settings:
        parts.append(_section("Settings", f"```yaml\n{_settings(source.settings)}```"))
    return "\n\n".join(parts) + "\n"


def _front_matter(base: str | None, facts: CardFacts) -> str:
    written_as = facts.written_as
    fields: dict[str, Any] = {"base_model": base} if base else {}
    if facts.license is not None:
        fields["license"] = facts.license
    fields |= {"library_name": written_as.library, "pipeline_tag": "text-to-image"}
    tags = ["text-to-image", "diffopd"] + ([] if written_as.whole_model else ["lora"])
    return f"---\n{yaml.safe_dump({**fields, 'tags': tags}, sort_keys=False)}---"


def _license(base: str, has_teachers: bool, facts: CardFacts) -> str:
    stated = "" if facts.license is None else f"`{facts.license}`, as stated by who exported them. "
    own = "." if facts.license is not None else ", and state yours here."
    files = ", ".join(f"`{file}`" for file in facts.license_files)
    return (
        f"{stated}These weights derive from `{base}`"
        + (f" (its license: {files})" if files else "")
        + (" and from the teachers above" if has_teachers else "")
        + ". Their licenses also apply to them; read them before sharing or selling anything made with them"
        + own
    )


def _title(source: Source) -> str:
    adapter = Path(source.adapter)
    if source.run is not None:
        return str(source.settings.get("name", source.run.name))
    if source.settings:  # of a checkpoint
        return f"{source.settings.get('name', adapter.parents[2].name)}, {adapter.parent.name}"
    return adapter.stem


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _base(name: str, source: Source, facts: CardFacts) -> str:
    revision = source.model.get("revision")
    at = f" at revision `{revision}`" if revision else ""
    return f"`{name}`{at}, SHA-256 of its configs and weights `{facts.base_identity}`."


def _sampling(source: Source) -> str:
    """Guidance and text length, without which images differ from those in training."""
    height, width = height_and_width(source.model.image_size)
    lines = [f"`height=width={height}`" if height == width else f"`height={height}`, `width={width}`"]
    if "text_length" in source.model:
        lines.append(f"`max_sequence_length={source.model.text_length}`")
    guidance = trained_guidance(source.settings)
    if guidance is None and source.card is not None:
        guidance = TeacherCard.load(source.card.parent).guidance_scale
    if guidance is not None:
        lines.append(f"`guidance_scale={guidance:g}` in training (1 = CFG off)")
    return "Settings it was trained with: " + ", ".join(lines) + "."


def _teachers(source: Source) -> str:
    """Every teacher with the hashes of its files as they are now."""
    teachers = (source.settings.get("teacher") or {}).get("teachers") or {}
    rows = []
    for task, entry in teachers.items():
        try:
            files = find_place(entry["path"], setting=f"teacher.teachers.{task}.path").weights
            digest = ", ".join(f"`{sha256_of(file)}`" for file in files)
        except (ValueError, OSError):
            digest = "no longer there when this was exported"
        scale = entry["guidance_scale"]
        asked = "as in its card.json" if scale is None else f"{scale:g}"
        rows.append((task, f"`{_short(str(entry['path']))}`", asked, digest))
    header = ["Task", "Weights", "Guidance", "SHA-256"]
    return markdown_table(header, rows, texts=range(4)) if rows else ""


def _recipe(recipe: Mapping[str, Any]) -> str:
    return (
        f"`{_short(str(recipe['command']))}`, seed {recipe['seed']}, commit {recipe['commit']}: "
        f"{recipe['minutes']} minutes, {recipe['images']} images sampled, {recipe['reward_calls']} scored."
    )


def _scores(source: Source) -> str:
    """The run's table, or else the adapter's card."""
    if source.run is not None and (source.run / TABLE).is_file():
        return (source.run / TABLE).read_text(encoding="utf-8").strip()
    if source.card is None:
        return "None were measured with diffopd."
    card = TeacherCard.load(source.card.parent)
    rows = [
        (benchmark, task, f"{value.mean:.3f}", value.interval_text, str(value.n))
        for benchmark, tasks in card.scores.items()
        for task, value in tasks.items()
    ]
    return markdown_table(["Benchmark", "Task", "Reward", "95 % interval", "Images"], rows, texts=(0, 1))


def _settings(settings: Mapping[str, Any]) -> str:
    told = {key: value for key, value in settings.items() if key not in _UNIMPORTANT}
    return _short(yaml.safe_dump(json.loads(json.dumps(told)), sort_keys=False))


def _short(text: str) -> str:
    """``text`` without the name of the user's own folder."""
    place = home()
    return text if place is None else text.replace(str(place), "~")


def hashes(files: Sequence[Path], folder: Path) -> dict[str, str]:
    """Path within ``folder`` and SHA-256 of each file."""
    return {str(file.relative_to(folder)): sha256_of(file) for file in files}
