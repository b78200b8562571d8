"""Pages that tell of names and calls in the code keep up with it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from diffopd.config.renamed import MOVED
from diffopd.host.signals import REQUESTS_TO_END

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diffopd"


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def logged_in_code() -> set[str]:
    """Names that phases and callbacks log, with a star for what depends on the run."""
    files = [file for package in ("phase", "callbacks") for file in (SOURCE / package).rglob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    names = {re.sub(r"\{[^}]*\}", "*", name) for name in re.findall(r'f?"(train/[^"\s*]+)"', text)}
    return {name for name in names if name != "train/*"}


def logged_on_page() -> set[str]:
    names = re.findall(r"`(train/[^`*]+)`", page("logged"))
    return {re.sub(r"<[^>]*>", "*", name) for name in names}


def test_every_logged_name_is_on_the_page():
    shown = logged_on_page()
    missing = {
        name
        for name in logged_in_code()
        if not any(
            fnmatch(other, name) or fnmatch(name, other) or other.startswith(f"{name}/") for other in shown
        )
    }
    assert missing == set()


def test_no_name_on_the_page_is_gone_from_the_code():
    text = "".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    for name in logged_on_page():
        last = next(part for part in reversed(name.split("/")) if "*" not in part)
        assert last.removesuffix("_*") in text or last in ("dmd", "tdm"), name


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


@pytest.mark.slow
def test_the_page_on_python_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", page("python"), re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "page.py").write_text("\n".join(blocks))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "torch.Size([11, 2, 16, 8, 8])"
    run = tmp_path / "runs" / "notebook" / "seed0"
    with (run / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()
