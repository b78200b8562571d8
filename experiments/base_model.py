"""Each page's line that says of which base model its numbers are: ``python experiments/base_model.py``.

``base_models.json`` says which base each page's runs had, null for pages whose numbers do not depend on it.
Where the data beside a page record it, they decide. After new runs, or when another base is shipped, this
command brings that file and every page's line up to date.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

import diffopd.model
from diffopd.files.atomic import atomic_write_json
from diffopd.model import PipelineModel

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
NOTED = EXPERIMENTS / "base_models.json"
LETTERS = 16
"""Of a digest, as scores keep them in their conditions."""
START = "> Base model: "
_RECORDED = re.compile(r'"base": ?"([0-9a-f]{16,64})"')


def shipped() -> dict[str, str]:
    """Each embedded model, ``mini_sd3`` first -> digest of the base model that ``model=`` with its name loads."""
    return {name: _digest(name) for name in ("mini_sd3", "mini_klein", "mini_klein_base")}


def _digest(name: str) -> str:
    model = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    kind: type[PipelineModel] = getattr(diffopd.model, model["_target_"].rpartition(".")[2])
    return kind.identity_at(model["path"], model["revision"], model["text_length"])[:LETTERS]


def recorded(folder: Path) -> set[str]:
    """Digests of the bases that the data beside a page name; those of pages below are their own."""
    found: set[str] = set()
    for path in sorted(folder.rglob("*.json*")):
        if any((place / "README.md").is_file() for place in path.parents if folder in place.parents):
            continue
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        found |= {digest[:LETTERS] for digest in _RECORDED.findall(text)}
    return found


def pages() -> dict[str, Path]:
    """Name of a page, its folder below ``experiments`` -> its file."""
    return {
        str(path.parent.relative_to(EXPERIMENTS)): path for path in sorted(EXPERIMENTS.rglob("README.md"))
    }


def line(base: str, now: Mapping[str, str]) -> str:
    """What a page says of its base.

    Args:
        base: Digest of the base of its runs.
        now: Model -> digest of what is shipped, by :func:`shipped`.
    """
    names = {digest: name for name, digest in now.items()}
    if base == now["mini_sd3"]:
        rest = "the shipped one."
    elif base in names:
        rest = f"the shipped `model={names[base]}`."
    else:
        rest = f"not the shipped one (`{now['mini_sd3']}`): of an old model."
    return f"{START}`{base}`, {rest}"


def with_line(text: str, said: str | None) -> str:
    """A page with its line below the title, in place of the one it had; without one if ``said`` is None."""
    title, *rest = [part for part in text.split("\n") if not part.startswith(START)]
    while rest and not rest[0]:
        rest = rest[1:]
    return "\n".join([title, "", *([said, ""] if said else []), *rest])


def noted() -> dict[str, str | None]:
    """Page -> digest of its base, or None, as ``base_models.json`` has it."""
    return json.loads(NOTED.read_text(encoding="utf-8"))


def main() -> None:
    """Bring the note and every page up to date."""
    known, now = noted(), shipped()
    for name, path in pages().items():
        found = recorded(path.parent)
        if len(found) > 1:
            raise SystemExit(f"{name}: its data are of several base models: {', '.join(sorted(found))}")
        if name not in known and not found:
            raise SystemExit(f"{name} is not in {NOTED.name}: add the digest of its base, or null")
        if found:
            known[name] = found.pop()
        base = known[name]
        path.write_text(
            with_line(path.read_text(encoding="utf-8"), line(base, now) if base else None), encoding="utf-8"
        )
    atomic_write_json(NOTED, dict(sorted(known.items())))


if __name__ == "__main__":
    main()
