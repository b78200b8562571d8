"""Pictures with captions in the ways people keep them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffopd.data.prompt_files import json_value
from diffopd.files.paths import resolve_path
from diffopd.files.picture import SUFFIXES

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files of captions that are found by themselves, as Hugging Face's imagefolder has them."""
BESIDE = ".txt"
CAPTION = "{caption}"
"""Stands for a picture's own caption in ``data.template``."""
TEXT = "text"
"""Key of a caption that has none of its own, as it is a file beside its picture."""


@dataclass(frozen=True)
class CaptionedFile:
    """A picture file and all that is said of it.

    Attributes:
        file: Where it is.
        name: What it is called below the folder of pictures.
        captions: key -> caption; those that are texts and not blank.
        rest: The other entries of its line.
        where: Where the captions are, for messages.
        rejected: The picture that this one is preferred to, where lines name one.
    """

    file: Path
    name: str
    captions: Mapping[str, str]
    rest: Mapping[str, Any]
    where: str
    rejected: Path | None = None

    def entry(self, key: str) -> Any:
        """What its line has under a key, a caption or something else; None if nothing."""
        return self.rest.get(key, self.captions.get(key))


def caption_keys(setting: str | Sequence[str] | None, template: str | None = None) -> tuple[str, ...]:
    """The keys that ``data.caption_key`` names; none if ``data.template`` says the same of all pictures.

    Examples:
        >>> caption_keys(None), caption_keys("short_en"), caption_keys(["short_en", "detailed_en"])
        (('text',), ('short_en',), ('short_en', 'detailed_en'))
        >>> caption_keys(None, "sks, {caption}"), caption_keys(None, "a photo of sks dog")
        (('text',), ())
    """
    if template is not None and CAPTION not in template:
        return ()
    return (setting,) if isinstance(setting, str) else tuple(setting or (TEXT,))


def read_captions(
    path: str,
    captions: str,
    picture_key: str,
    keys: Sequence[str],
    rejected_key: str | None = None,
    *,
    setting: str = "data.path",
) -> list[CaptionedFile]:
    """The captioned pictures of a folder.

    Args:
        path: The folder; may be ``package://...``.
        captions: ``auto``: ``metadata.jsonl`` or ``metadata.csv`` if there is one, else a ``.txt`` beside
            each picture; ``text``: the latter; or a ``.jsonl`` or ``.csv`` file below the folder.
        picture_key: Key of a line's picture, its place below the folder: a text, or a list of one.
        keys: Keys of the captions that every picture must have; with none, pictures need no caption.
        rejected_key: Key of the picture that a line's picture is preferred to; None = there are none.
        setting: Where the folder is named in the config, for messages.

    Raises:
        ValueError: If there are no pictures, or some have no caption: each of them by its name.
    """
    folder = Path(resolve_path(path))
    if not folder.is_dir():
        what = (
            "is a file, where a folder of pictures is needed"
            if folder.exists()
            else "there is no such folder"
        )
        raise ValueError(f"{setting}={path}: {what} ({folder.absolute()})")
    source = _source(path, folder, captions, setting)
    if source is None:
        if rejected_key is not None:
            raise ValueError(
                f"data.rejected_key={rejected_key} needs lines that name two pictures, and {folder} has none "
                f"of {', '.join(METADATA)}; write one, or name such a file with data.captions=..."
            )
        if tuple(keys) not in ((TEXT,), ()):
            raise ValueError(
                f"data.caption_key={_listed(keys)} needs captions with keys, and {folder} has {BESIDE} "
                "files; leave data.caption_key=null, or name a file of captions with data.captions=..."
            )
        return _beside(path, folder, setting, needed=bool(keys))
    read = _json_lines if source.suffix == ".jsonl" else _csv_lines
    found = [
        _captioned(folder, source, number, line, picture_key, rejected_key) for number, line in read(source)
    ]
    if not found:
        raise ValueError(f"{setting}={path}: {source} holds no captions; write one line per picture")
    _check_keys(found, source, keys)
    return found


def texts_of(file: CaptionedFile, keys: Sequence[str], template: str | None) -> tuple[str, ...]:
    """What the model may be told of a picture: its captions of these keys, in the template."""
    told = CAPTION if template is None else template
    return tuple(told.replace(CAPTION, file.captions[key]) for key in keys) or (told,)


def _source(path: str, folder: Path, captions: str, setting: str) -> Path | None:
    """The file of captions; None if each picture has its own."""
    if captions == "text":
        return None
    if captions != "auto":
        file = folder / captions
        if file.suffix not in (".jsonl", ".csv"):
            raise ValueError(
                f"data.captions={captions} must be auto, text, or a .jsonl or .csv file below "
                f"{setting}={path}"
            )
        if not file.is_file():
            raise ValueError(f"data.captions={captions}: there is no such file ({file.absolute()})")
        return file
    there = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(there) > 1:
        raise ValueError(
            f"{setting}={path} has both {' and '.join(METADATA)}; choose with data.captions={METADATA[0]}"
        )
    return there[0] if there else None


def _beside(path: str, folder: Path, setting: str, *, needed: bool) -> list[CaptionedFile]:
    """Pictures with a text file each, in all folders below, by name; not all have one unless it is needed."""
    names = sorted(
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise ValueError(
            f"{setting}={path}: {folder.absolute()} holds no pictures ({', '.join(SUFFIXES)}) and none of "
            f"{', '.join(METADATA)}; put the pictures there, or name the folder that has them"
        )
    found, without = [], []
    for name in names:
        file = folder / name
        caption = _one_line(file.with_suffix(BESIDE))
        if caption or not needed:
            captions = {TEXT: caption} if caption else {}
            found.append(CaptionedFile(file, name.as_posix(), captions, {}, file.with_suffix(BESIDE).name))
        else:
            without.append(name.as_posix())
    below = sorted({name.parts[0] for name in names if len(name.parts) > 1})
    own = [part for part in below if any((folder / part / name).is_file() for name in METADATA)]
    if without and own:
        raise ValueError(
            f"{setting}={path} has no captions of its own, and the folder {own[0]} in it has: did you mean "
            f"{setting}={Path(path) / own[0]}?"
        )
    if without:
        raise ValueError(
            f"{setting}={path}: no caption for {', '.join(without)}; write it into a {BESIDE} file of the "
            f"same name beside the picture, or all into {METADATA[0]}"
        )
    return found


def _one_line(file: Path) -> str:
    """The text of a file, its lines joined; empty if there is none."""
    try:
        return " ".join(file.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: the file is not UTF-8 ({error}); save it as UTF-8") from error


def _json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not (text := line.strip()):
            continue
        record = json_value(text, file, number)
        if not isinstance(record, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object, got {type(record).__name__}")
        yield number, record


def _csv_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        for record in rows:
            if None in record or None in record.values():
                raise ValueError(
                    f"{file}, line {rows.line_num}: as many values are needed as the first line has names; "
                    'put a caption with commas between double quotes, as in a.png,"a cat, a dog"'
                )
            yield rows.line_num, record
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.reader.line_num}: not CSV ({error})") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: the file is not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error


def _captioned(
    folder: Path,
    source: Path,
    number: int,
    line: Mapping[str, Any],
    picture_key: str,
    rejected_key: str | None,
) -> CaptionedFile:
    def named(key: str, setting: str) -> str:
        name = line.get(key)
        if isinstance(name, list) and len(name) == 1:
            name = name[0]
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{source}, line {number}: {key!r} must be the place of one picture below data.path, got "
                f"{name!r}; the line has the keys {sorted(map(str, line))}. {setting} names another"
            )
        return name

    name = named(picture_key, "data.picture_key")
    rejected = None if rejected_key is None else folder / named(rejected_key, "data.rejected_key")
    pictures = (picture_key, rejected_key)
    captions = {key: " ".join(value.split()) for key, value in line.items() if isinstance(value, str)}
    captions = {key: text for key, text in captions.items() if text and key not in pictures}
    rest = {key: value for key, value in line.items() if key not in captions and key not in pictures}
    return CaptionedFile(folder / name, name, captions, rest, f"{source.name}, line {number}", rejected)


def _check_keys(found: Sequence[CaptionedFile], source: Path, keys: Sequence[str]) -> None:
    """Every picture has a caption of every key.

    Raises:
        ValueError: With all that lack one.
    """
    problems = []
    for key in keys:
        if without := [
            f"{one.where.rpartition(', ')[2]} ({one.name})" for one in found if key not in one.captions
        ]:
            problems.append(f"no caption {key!r} in {', '.join(without)}")
    if problems:
        shared = sorted(set.intersection(*(set(one.captions) for one in found)))
        has = f"every line has {', '.join(shared)}" if shared else "no key has a caption in every line"
        raise ValueError(f"{source}: {'; '.join(problems)}. {has}; choose with data.caption_key=...")


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]"
