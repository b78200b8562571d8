"""Pages that tell of names and calls in the code keep up with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffopd.config.renamed import MOVED
from diffopd.host.signals import REQUESTS_TO_END

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diffopd"


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_modules_that_moved_are_on_the_page():
    text = page("moving")
    for old, new in MOVED.items():
        room = new.rpartition(".")[0]
        assert f".{old.rpartition('.')[2]}" in text, old
        assert f"`{room}.<name>`" in text or f"`{new}`" in text, new


def test_what_the_page_on_platforms_says_of_the_code():
    assert "SIGUSR1" in [signal.name for signal in REQUESTS_TO_END]
    text = page("platforms")
    for file, what, said in (
        ("callbacks/throughput.py", "import resource", "`resource`"),
        ("jobs/launch.py", "preexec_fn", "`preexec_fn`"),
        ("jobs/launch.py", 'sys.platform != "linux"', "end with it"),
        ("host/start.py", 'sys.platform == "linux"', "joblib"),
        ("host/threads.py", "sched_getaffinity", "`trainer.num_threads`"),
        ("flow/step.py", "sigma.double()", "float64"),
    ):
        assert what in (SOURCE / file).read_text(encoding="utf-8"), file
        assert said in text, said


PATH = re.compile(r"`((?:src|tests|conf|docs|benchmarks|experiments|\.ci)/[\w./-]*)`")
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.name)
def test_files_that_a_page_names_are_there(file):
    named = PATH.findall(file.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
