"""Every group, choice and setting of ``conf/``, as its files say: default, allowed values, comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from diffopd.check.annotation import allowed_by
from diffopd.check.limit import rules_of
from diffopd.check.setting import HYDRA_KEYS
from diffopd.check.source import read_target
from diffopd.config.aliases import FILE, GLOBAL
from diffopd.config.folder import config_folder

OTHER_PAGES = ("experiment", "hydra")
"""Folders of ``conf/`` that this reference leaves out: experiments have a page of their own."""

CONTENT = ("claims", "rows", "stages", "variant", "wins")
"""Groups whose choices are lists of runs or claims, not settings that another choice has, too."""


@dataclass(frozen=True)
class Setting:
    """One line of a file of ``conf/``.

    Attributes:
        path: Where it is on the command line, e.g. ``sampler.num_steps``.
        default: Its value as the file writes it, or the choice that stands there.
        note: The comment beside it: unit, range, effect.
        target: The class that takes it, if the file names one.
        of: The group that the default is a choice of, or None.
    """

    path: str
    default: str
    note: str
    target: str | None = None
    of: str | None = None

    @cached_property
    def allowed(self) -> str:
        """What its value must be, in the words of the error; empty if nothing is checked."""
        if self.of is not None:
            return f"a choice of `{self.of}`"
        parts = [str(rule) for rule in rules_of(self.path)]
        parts += [f"each {rule}" for rule in rules_of(f"{self.path}.*") if self.default.startswith("[")]
        if parts:
            return "; ".join(parts)
        taken = read_target(self.target) if self.target else None
        parameter = taken.parameters.get(self.path.rpartition(".")[2]) if taken else None
        allowed = allowed_by(parameter) if parameter else None
        return "" if allowed is None or allowed.anything else str(allowed)


@dataclass(frozen=True)
class Choice:
    """A file of ``conf/``, or an entry of its ``aliases.yaml``.

    Attributes:
        name: Its name on the command line.
        purpose: The comment that it opens with.
        starts_as: The choices of the same group that it takes in whole.
        target: The class that it makes, or None.
        settings: Its lines, in their order.
    """

    name: str
    purpose: str
    starts_as: tuple[str, ...]
    target: str | None
    settings: tuple[Setting, ...]


@cache
def groups() -> Mapping[str, tuple[Choice, ...]]:
    """Group -> its choices, files and aliases, both in alphabetical order."""
    folders = sorted(folder for folder in Path(config_folder()).iterdir() if folder.is_dir())
    named = {
        folder.name: [*(read(file, folder.name) for file in folder.glob("*.yaml")), *_aliases(folder.name)]
        for folder in folders
        if folder.name not in OTHER_PAGES
    }
    return {group: tuple(sorted(choices, key=lambda choice: choice.name)) for group, choices in named.items()}


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a YAML text, with their lines; libyaml's parser takes a tenth of the time."""
    return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _aliases(group: str) -> Iterator[Choice]:
    """The choices of a group in ``conf/aliases.yaml``: the comment above, or what changes, is the purpose."""
    text = (Path(config_folder()) / FILE).read_text(encoding="utf-8")
    root, lines = _composed(text), _Lines(text.splitlines())
    assert isinstance(root, yaml.MappingNode)
    for key, node in root.value:
        of, _, name = key.value.rpartition("/")
        if of == group:
            above = lines.lines[key.start_mark.line - 1]
            purpose = above.removeprefix("# ") if above.startswith("# ") else ""
            place = "" if group in GLOBAL else group
            choice = _choice(name, purpose, place, node, lines, Path(config_folder()) / group)
            brought = ", ".join(f"{s.path.rpartition('.')[2]}={s.default}" for s in choice.settings)
            told = f"{' and '.join(choice.starts_as)} with {brought}" if brought and choice.starts_as else ""
            yield replace(choice, purpose=purpose or told or "see there")


def commands() -> tuple[Choice, ...]:
    """The files that commands are composed from, ``train`` first."""
    files = sorted(Path(config_folder()).glob("*.yaml"), key=lambda file: (file.stem != "train", file.stem))
    return tuple(read(file, "") for file in files)


def read(file: Path, group: str) -> Choice:
    """One file.

    Args:
        file: A file of ``conf/``.
        group: Its folder, which is the place of its settings unless the file says ``@package _global_``.
    """
    text = file.read_text(encoding="utf-8")
    header, package = _header(text)
    place = group if package is None else ""
    return _choice(
        file.stem,
        header,
        place,
        _composed(text),
        _Lines(text.splitlines()),
        file.parent if group else None,
    )


def _choice(
    name: str, purpose: str, place: str, root: yaml.Node | None, lines: _Lines, folder: Path | None
) -> Choice:
    """One choice from the node that makes it; ``folder`` is its group's, if it has one."""
    group = folder.name if folder else ""
    settings: list[Setting] = []
    target, starts = None, []
    if isinstance(root, yaml.MappingNode):
        pairs = {key.value: (key, value) for key, value in root.value}
        target = pairs["_target_"][1].value if "_target_" in pairs else None
        if "defaults" in pairs:
            entries = pairs["defaults"][1]
            assert isinstance(entries, yaml.SequenceNode)
            plain = [entry.value for entry in entries.value if isinstance(entry, yaml.ScalarNode)]
            starts = [name for name in plain if name != "_self_" and not {"/", "@"} & set(name)]
            base = folder / f"{starts[0]}.yaml" if folder and starts else None
            target = target or (read(base, group).target if base and base.is_file() else None)
            settings += _brought(entries, place, group, lines, target)
        settings += _walk(root, place, target, lines, top=True)
    return Choice(name, purpose, tuple(starts), None if target == "???" else target, tuple(settings))


def _header(text: str) -> tuple[str, str | None]:
    """The opening comment as one text, and the package that it names."""
    lines, package = [], None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("# ").strip()
        if words.startswith("@package"):
            package = words.split()[1]
        else:
            lines.append(words)
    return " ".join(lines), package


class _Lines:
    """The lines of a file, for the comments that YAML's parser drops."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def after(self, mark: Any) -> str:
        """The comment that follows ``mark`` on its line, with those on lines of their own right below."""
        found = re.match(r"[:\s]*#\s*(.*)", self.lines[mark.line][mark.column :])
        if found is None:
            return ""
        parts = [found[1]]
        for line in self.lines[mark.line + 1 :]:
            if not line.startswith("# "):
                break
            parts.append(line.removeprefix("# "))
        return " ".join(parts)


def _walk(
    node: yaml.MappingNode, place: str, target: str | None, lines: _Lines, *, top: bool = False
) -> Iterator[Setting]:
    for key, value in node.value:
        name = key.value
        path = f"{place}.{name}" if place else name
        if top and name in ("defaults", "hydra"):
            continue
        if name == "_target_":
            if value.value == "???" or not top:  # of the file itself, the class is said beside its name
                yield Setting(path, value.value, lines.after(value.end_mark))
        elif name in HYDRA_KEYS:
            continue
        elif isinstance(value, yaml.MappingNode) and value.value:
            inner = next((part.value for word, part in value.value if word.value == "_target_"), None)
            if note := lines.after(key.end_mark):
                yield Setting(path, "", note)
            yield from _walk(value, path, inner, lines)
        else:
            flow = getattr(value, "flow_style", True) or not isinstance(value, yaml.CollectionNode)
            yield Setting(path, _text(value), lines.after(value.end_mark if flow else key.end_mark), target)


def _text(node: yaml.Node) -> str:
    """A value on one line."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_text, node.value))}]"
    if isinstance(node, yaml.MappingNode):
        return "{" + ", ".join(f"{_text(key)}: {_text(value)}" for key, value in node.value) + "}"
    text = " ".join(str(node.value).split())
    quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
    return f'"{text}"' if quoted else text


def _brought(
    node: yaml.SequenceNode, place: str, group: str, lines: _Lines, target: str | None
) -> Iterator[Setting]:
    """Choices that a file puts at some place, and the lines of files that it has in common with others."""
    for entry in node.value:
        if isinstance(entry, yaml.MappingNode):
            ((key, value),) = entry.value
            word, choice = key.value.removeprefix("override "), value.value
        else:
            value = entry
            word, _, choice = entry.value.rpartition("/")
            choice, at, where = choice.partition("@")
            word += at + where
        if choice == "_self_" or "hydra" in word:
            continue
        path, _, package = word.partition("@")
        of = path.strip("/") or group
        if not package and of == group:  # all of another choice, see starts_as
            continue
        if package == "_here_":
            text = (Path(config_folder()) / of / f"{choice}.yaml").read_text(encoding="utf-8")
            root = _composed(text)
            assert isinstance(root, yaml.MappingNode)
            yield from _walk(root, place, target, _Lines(text.splitlines()), top=True)
            continue
        package = package.removeprefix("_global_")
        where = ".".join(part for part in (place, package) if part) if package else of
        yield Setting(where, choice, lines.after(value.end_mark), of=of)
