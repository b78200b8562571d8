"""A few prompts of each task, the package's own, so that encoding them takes no time."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from diffopd.files.paths import resolve_path

PROMPT_FILES = {
    "composition": PurePosixPath("composition/train.jsonl"),
    "ocr": PurePosixPath("ocr/train.txt"),
    "aesthetic": PurePosixPath("aesthetic/train.txt"),
}
PROMPTS = 4


def write_prompts(folder: Path) -> None:
    """Write the first prompts of each task.

    Args:
        folder: To make.
    """
    folder.mkdir(parents=True)
    for task, name in PROMPT_FILES.items():
        source = Path(resolve_path(f"package://assets/prompts/{name}"))
        lines = source.read_text(encoding="utf-8").splitlines()[:PROMPTS]
        (folder / f"{task}{name.suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
