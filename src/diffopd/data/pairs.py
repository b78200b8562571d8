"""Your own pictures with captions: what a model is to learn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from diffopd.data.buckets import RELEASED, nearest_size, sizes_of_area
from diffopd.data.pair_files import CaptionedFile, caption_keys, read_captions, texts_of
from diffopd.data.prompt_files import PromptEntry, read_prompt_files
from diffopd.data.prompts import prompt_rows
from diffopd.data.reference_files import references_of
from diffopd.data.rounds import RoundData, TaskPrompts, check_count
from diffopd.files.fingerprint import sha256_of
from diffopd.files.paths import resolve_path
from diffopd.files.picture import cut_share, picture_size
from diffopd.randomness import numpy_generator
from diffopd.types import KEPT, Picture, Prompts
from diffopd.types.picture import Colour
from diffopd.types.size import ImageSize, Size, height_and_width, shown_size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A picture and the captions that its rows may have.

    Attributes:
        picture: The picture, at the size at which it is learned.
        texts: Captions, one of which is drawn for each group of rows.
        metadata: ``captions`` by key, ``file_name``, and what else its line had.
        where: Name of its file.
        references: What the student is shown beside the caption, as in editing.
        rejected: The picture that it is preferred to, at the same size, or None.
    """

    picture: Picture
    texts: tuple[str, ...]
    metadata: Mapping[str, Any]
    where: str
    references: tuple[Picture, ...] = ()
    rejected: Picture | None = None


@final
class PairData(RoundData):
    """Rounds of captioned pictures; each row's picture is its target.

    Attributes:
        tasks: The one task, and its pairs.
        has_targets: That its rows have pictures to learn.
        sizes: Height and width of its pictures, each once.
    """

    has_targets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seed: int,
        path: str,
        task: str,
        captions: str,
        picture_key: str,
        caption_key: str | Sequence[str] | None,
        image_size: ImageSize,
        buckets: Literal["none", "area", "released"],
        bucket_step: int,
        background: Sequence[int],
        prompts_per_round: int,
        group_size: int,
        template: str | None = None,  # these are not in the configs that earlier runs saved
        rejected_key: str | None = None,
        reference_key: str | None = None,
        keep: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the captions, and every picture to its end.

        Args:
            seed: Of the order, and of the captions that are drawn.
            path: Folder of the pictures.
            task: Name of the task that they are.
            captions: Where the captions are, see :func:`~diffopd.data.pair_files.read_captions`.
            picture_key: Key of a line's picture.
            caption_key: Key of the caption that is used, or several of which one is drawn for each picture
                of a round; None = ``text``.
            image_size: Height and width at which pictures are learned; one number for squares.
            buckets: Sizes at which pictures are learned: ``none``: ``image_size`` alone; ``area``: sizes of
                its area, of which each picture has the one nearest to its shape; ``released``: D-OPSD's
                eleven.
            bucket_step: Pixels that the sides of ``area``'s sizes are multiples of.
            background: Red, green and blue behind transparent parts, 0 to 255.
            prompts_per_round: Pictures in a round.
            group_size: Rows of each.
            reference_key: Key of a line's reference pictures, places below the folder; every line must have
                it. None = no references.
            template: What the model is told in place of a picture's caption, for which ``{caption}`` stands;
                without it, one text for all pictures, which then need no captions. None = the caption.
            rejected_key: Key of the picture that a line's picture is preferred to, of a file of captions.
            keep: Prompts of what the model can do and is to keep, ``path`` (a prompt file or several, or
                None) and ``prompts_per_round``: rows without a picture, of the task ``kept``.

        Raises:
            ValueError: If there are no pictures, some have no caption, or some cannot be read; all of these
                by their names. If the prompts to keep cannot be read.
        """
        keys = caption_keys(caption_key, template)
        files = read_captions(path, captions, picture_key, keys, rejected_key)
        sizes = _sizes(path, [file.file for file in files])
        _sizes(path, [file.rejected for file in files if file.rejected is not None])
        red, green, blue = background
        references = _references(path, files, reference_key, (red, green, blue))
        among = _sizes_of(buckets, height_and_width(image_size), bucket_step)
        pairs = [
            _pair(file, nearest_size(seen, among), (red, green, blue), keys, template, shown)
            for file, seen, shown in zip(files, sizes, references, strict=True)
        ]
        self.sizes = tuple(dict.fromkeys(pair.picture.size for pair in pairs))
        _tell(pairs, sizes)
        counts = (
            check_count("data.prompts_per_round", prompts_per_round),
            check_count("data.group_size", group_size),
        )
        super().__init__(seed, {task: TaskPrompts("data", pairs, *counts), **_kept(keep, task, group_size)})

    def rows(
        self, entry: Pair | PromptEntry, task: str, indices: range, group: int, round_index: int
    ) -> Prompts:
        """The picture with one of its captions, or a prompt to keep, as often as there are rows."""
        if isinstance(entry, PromptEntry):
            return prompt_rows(entry, task, indices, group)
        drawn = 0
        if len(entry.texts) > 1:
            rng = numpy_generator(self.seed, f"caption/{task}", round_index, group)
            drawn = int(rng.integers(len(entry.texts)))
        size = len(indices)
        return Prompts(
            (entry.texts[drawn],) * size,
            (task,) * size,
            (entry.metadata,) * size,
            tuple(indices),
            (group,) * size,
            (entry.picture,) * size,
            (entry.references,) * size,
            rejected=(entry.rejected,) * size,
        )


def _kept(keep: Mapping[str, Any] | None, task: str, group_size: int) -> dict[str, TaskPrompts]:
    """The prompts of what the model is to keep, as a task of its own; none without a file.

    Raises:
        ValueError: If they cannot be read, or the pictures' task has their name.
    """
    if keep is None or not keep["path"]:
        return {}
    if task == KEPT:
        raise ValueError(
            f"data.task={KEPT} is the name of the prompts of data.keep; call the pictures otherwise"
        )
    entries = read_prompt_files(keep["path"], KEPT, setting="data.keep.path")
    count = check_count("data.keep.prompts_per_round", keep["prompts_per_round"])
    return {KEPT: TaskPrompts("data.keep", entries, count, group_size)}


def _sizes_of(buckets: str, size: Size, step: int) -> tuple[Size, ...]:
    """The sizes that pictures may have.

    Raises:
        ValueError: If the released ones are wanted, which are for another area.
    """
    if buckets == "released":
        if size != RELEASED[0]:
            raise ValueError(
                "data.buckets=released are sizes of about 1024 x 1024 pixels, and data.image_size="
                f"{shown_size(size)}; set model.image_size=1024, or data.buckets=area"
            )
        return RELEASED
    return sizes_of_area(size, step) if buckets == "area" else (size,)


def _sizes(path: str, files: Sequence[Path]) -> list[tuple[int, int]]:
    """Height and width of each picture.

    Raises:
        ValueError: With all that cannot be read.
    """

    def size_or_problem(file: Path) -> tuple[int, int] | str:
        try:
            return picture_size(file)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=8) as pool:  # Pillow decodes outside of Python's lock
        found = list(pool.map(size_or_problem, files))
    if problems := list(dict.fromkeys(one for one in found if isinstance(one, str))):
        number = f"{len(problems)} of {len(files)} pictures" if len(problems) > 1 else "a picture"
        raise ValueError(
            f"data.path={path}: {number} cannot be used; replace them, or remove them with their captions:\n"
            + "\n".join(problems)
        )
    return [one for one in found if not isinstance(one, str)]


def _references(
    path: str, files: Sequence[CaptionedFile], key: str | None, background: Colour
) -> list[tuple[Picture, ...]]:
    """The reference pictures of each line.

    Raises:
        ValueError: If lines have none under the key, or name what cannot be read: all of them at once.
    """
    if key is None:
        return [()] * len(files)
    found: list[tuple[Picture, ...]] = []
    problems = []
    for file in files:
        named = file.entry(key)
        if named is None:
            problems.append(f"{file.where} ({file.name}) has no {key!r}")
            continue
        try:
            found.append(references_of(named, Path(resolve_path(path)), file.where, background))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            f"data.reference_key={key} of data.path={path}: every line must name its reference pictures; set "
            "data.reference_key=null if there are none:\n" + "\n".join(problems)
        )
    return found


def _pair(
    file: CaptionedFile,
    size: Size,
    background: Colour,
    keys: Sequence[str],
    template: str | None,
    references: tuple[Picture, ...],
) -> Pair:
    def at_size(place: Path) -> Picture:
        return Picture(str(place), sha256_of(place), *size, background)

    metadata = {**file.rest, "file_name": file.name, "captions": file.captions}
    rejected = None if file.rejected is None else at_size(file.rejected)
    texts = texts_of(file, keys, template)
    return Pair(at_size(file.file), texts, metadata, file.name, references, rejected)


def _tell(pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]]) -> None:
    """Say which sizes there are, what is cut off, and what is enlarged."""
    if len(of_size := Counter(pair.picture.size for pair in pairs)) > 1:
        shown = ", ".join(f"{size[0]} x {size[1]} ({count})" for size, count in of_size.most_common())
        log.info("pictures have %d sizes, height x width: %s", len(of_size), shown)
    cuts, small = [], []
    for pair, seen in zip(pairs, sizes, strict=True):
        size = (pair.picture.height, pair.picture.width)
        cuts.append((cut_share(seen, size), pair.where, seen, size))
        if seen[0] < size[0] or seen[1] < size[1]:
            small.append(pair.where)
    share, name, seen, size = max(cuts)
    if share > 0:
        log.info(
            "%d of %d pictures are cut to fit, at most %.0f %% (%s: %d x %d to %d x %d, height x width)",
            sum(cut > 0 for cut, *_ in cuts),
            len(cuts),
            100 * share,
            name,
            *seen,
            *size,
        )
    if small:
        log.warning(
            "%d pictures are smaller than they are learned and get enlarged: %s", len(small), ", ".join(small)
        )
