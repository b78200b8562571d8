"""Prompts with random figures as references: ``python -m diffopd.data.figure_prompts runs/figures``.

The embedded few-step model is distilled on these beside prompts of words, so that it goes on reading
references.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from diffopd.data.drawings import figure_drawing
from diffopd.files.atomic import replacing_folder
from diffopd.world.figure_request import THE_SAME_PICTURE

PROMPTS = "prompts.jsonl"


def write_figure_prompts(folder: Path, *, seed: int, number: int, side: int) -> Path:
    """Write ``number`` pictures and two prompts for each: the same picture, and the same figure elsewhere.

    The figures are of pretraining's side, from indices that its drawings do not reach.

    Args:
        folder: To make; what was there is replaced.
        seed: Of the drawings.
        number: Of pictures.
        side: Their side in pixels.

    Returns:
        The prompt file.
    """
    lines = []
    with replacing_folder(folder) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        for index in range(number):
            first = figure_drawing(seed, _FIRST + index, side=side)
            again = figure_drawing(seed, _FIRST + index, side=side, again=True)
            name = f"{index:05d}.png"
            Image.fromarray(first.pixels).save(temporary / name)
            lines += [
                {"prompt": text, "references": [name]} for text in (first.text + THE_SAME_PICTURE, again.text)
            ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (temporary / PROMPTS).write_text(text, encoding="utf-8")
    return folder / PROMPTS


_FIRST = 10_000_000


def main() -> None:
    """Write a folder, as the command line asks."""
    parser = argparse.ArgumentParser(description="Write prompts that show random figures as references.")
    parser.add_argument("folder", type=Path, help="to make; what was there is replaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=1000, help="pictures, two prompts each")
    parser.add_argument("--side", type=int, default=64, help="pixels; references need at least 64")
    given = vars(parser.parse_args())
    print(write_figure_prompts(given.pop("folder"), **given))


if __name__ == "__main__":
    main()
