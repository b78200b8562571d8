"""What docs/own_pictures.md shows works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from diffopd.data.pairs import PairData
from support.tiny_runs import run_rounds

PAGE = (Path(__file__).parents[1] / "docs" / "own_pictures.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w*\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, after the page's first command."""
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[0] == ["python", "make_pictures.py"]
    exec(FILES["make_pictures.py"], {})
    return tmp_path


def read(folder, *settings):
    """``data=pairs`` with the settings of a cell of the page's table of captions."""
    given = dict(setting.removeprefix("data.").split("=", 1) for setting in settings)
    keys = given.get("caption_key")
    return PairData(
        seed=0,
        path=str(folder),
        task="pictures",
        captions=given.get("captions", "auto"),
        picture_key=given.get("picture_key", "file_name"),
        caption_key=keys.strip("[]").split(",") if keys else None,
        image_size=32,
        buckets="none",
        bucket_step=32,
        background=[255, 255, 255],
        prompts_per_round=4,
        group_size=1,
        template=given["template"].strip("'") if "template" in given else None,
    )


def test_the_run_of_the_page_takes_two_rounds(world, folder):
    *_, experiment, path, rounds = COMMANDS[2]
    assert COMMANDS[2][:3] == ["python", "-m", "diffopd.train"]
    assert rounds.startswith("trainer.max_epochs=")
    run = run_rounds(
        world.build(experiment.removeprefix("+experiment="), folder / "run", path), student_seed=None
    )
    assert set(run.experiment.data.texts_of(1)) <= {
        f"a photo of a {c} circle" for c in ("red", "blue", "green")
    }
    assert len(run.gradients) == 2


ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.split("| You have |")[1].split("\n\n")[0].splitlines()[2:]
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:20])
def test_captions_are_read_as_the_table_says(folder, row):
    have, looks_like, setting = row
    (folder / "my_pictures" / "metadata.jsonl").unlink()
    pictures = folder / "my_pictures"
    settings = [one or other for one, other in re.findall(r'"(data\.[^"]+)"|(data\.\S+?=[^\s`"]+)', setting)]
    (pictures / "ring_0.png").rename(pictures / "cat.jpg")
    for place in pictures.glob("ring_*"):
        place.unlink()
    if "cat.txt" in looks_like:
        (pictures / "cat.txt").write_text("a cat")
    elif "metadata.csv" in looks_like:
        (pictures / "metadata.csv").write_text("file_name,text\ncat.jpg,a cat\n")
    elif "local_path_list" in looks_like:
        (pictures / "dataset" / "corgi").mkdir(parents=True)
        line = {"local_path_list": ["cat.jpg"], "detailed_en": "a cat"}
        (pictures / "dataset" / "corgi" / "data.jsonl").write_text(json.dumps(line))
    elif "`{" in looks_like:
        (pictures / "metadata.jsonl").write_text(looks_like.strip("`"))
    elif have != "pictures without captions":
        (pictures / "cat.txt").write_text("a cat")
    told = {
        "pictures without captions": "a photo of sks dog",
        "captions, and a rare word for what is in the pictures": "sks, a cat",
    }
    texts = read(pictures, *settings).tasks["pictures"].entries[0].texts
    assert told.get(have, "a cat") in texts
