"""A row of samples drawn during a training: one PNG that knows its round, its prompts and what it is of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffopd.files.grid import cut_row, image_sheet
from diffopd.files.png import save_png

_NOTE = "diffopd.samples"
"""Name of the PNG's text."""
_FILE = re.compile(r"round_\d{6,}\.png")


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """What a row is of.

    Attributes:
        round: Rounds that were done, 0 before the first.
        prompts: The prompts, in order.
        tasks: The task of each.
        made_from: Digest of all that the pixels depend on.
    """

    round: int
    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    made_from: str

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"round_{self.round:06d}.png"

    def picture(self, images: Float[Tensor, " batch 3 height width"]) -> Image.Image:
        """The images in a row, each with its prompt below."""
        return image_sheet(images, self.prompts, num_columns=len(self.prompts))

    def save(self, picture: Image.Image, folder: Path) -> Path:
        """Write the picture, whole or not at all, with what it is of."""
        note = {
            "round": self.round,
            "prompts": self.prompts,
            "tasks": self.tasks,
            "made_from": self.made_from,
        }
        return save_png(picture, folder / self.file, {_NOTE: json.dumps(note)})

    def is_in(self, folder: Path) -> bool:
        """Whether the folder holds the very picture this row makes."""
        try:
            return read_row(folder / self.file)[0] == self
        except (OSError, ValueError):
            return False


def read_row(path: Path) -> tuple[SampleRow, list[Image.Image]]:
    """A row and its images, as they are shown in it.

    Raises:
        OSError: If the file is absent or damaged.
        ValueError: If it is a picture of something else.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # compares all check sums
            note, picture = json.loads(getattr(opened, "text", {})[_NOTE]), opened.convert("RGB")
        row = SampleRow(
            round=int(note["round"]),
            prompts=tuple(map(str, note["prompts"])),
            tasks=tuple(map(str, note["tasks"])),
            made_from=str(note["made_from"]),
        )
    except SyntaxError as error:  # what Pillow raises for a damaged PNG
        raise OSError(f"{path} is damaged: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what it shows ({error!r})") from error
    return row, cut_row(picture, len(row.prompts))


def list_rows(folder: Path) -> list[Path]:
    """The files of a folder that are named as rows are, in the order of rounds."""
    found = [path for path in folder.glob("round_*.png") if _FILE.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("round_")))
