"""The list of mutations follows the code, and a survivor is one."""

from __future__ import annotations

import subprocess
import sys

import mutations
import pytest
from mutations import MUTATIONS, Found, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_changes_one_place(mutation):
    text = (mutations.ROOT / "src" / "diffopd" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.before) == 1
    assert mutation.after not in (mutation.before, "")
    assert all((mutations.ROOT / place).exists() for place in mutation.tests)


def test_every_package_of_the_method_is_mutated():
    assert len(MUTATIONS) == len({mutation.name for mutation in MUTATIONS}) >= 20
    assert {m.file.split("/")[0] for m in MUTATIONS} == {"flow", "sampler", "loss", "adapter", "phase"}


@pytest.fixture
def copy(tmp_path):
    """A tree with one formula, whose sign has a test and whose offset has none."""
    (tmp_path / "src" / "diffopd").mkdir(parents=True)
    (tmp_path / "src" / "diffopd" / "__init__.py").touch()
    (tmp_path / "src" / "diffopd" / "sums.py").write_text("def minus(a, b):\n    return a - b + 0\n")
    (tmp_path / "test_sums.py").write_text(
        "from diffopd.sums import minus\n\n\ndef test_minus():\n    assert minus(3, 1) > 1\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after", "outcome", "by"),
    [
        ("a - b", "b - a", "killed", "test_sums.py::test_minus"),
        ("+ 0", "+ 1", "survived", ""),
        ("a * b", "a + b", "not there", "sums.py has this text 0 times, not once: a * b"),
        ("a", "b", "not there", "sums.py has this text 2 times, not once: a"),
    ],
)
def test_what_becomes_of_a_mutation(copy, before, after, outcome, by):
    text = (copy / "src" / "diffopd" / "sums.py").read_text()
    found = mutations.tried(Mutation("sign", "sums.py", before, after, ("test_sums.py",)), copy)
    assert (found.outcome, found.by) == (outcome, by)
    assert (copy / "src" / "diffopd" / "sums.py").read_text() == text


def test_the_table_counts_and_the_file_is_gone_on_with(tmp_path):
    found = [Found(MUTATIONS[0].name, "killed", "tests/flow/test_x.py::test_y", 2.4)]
    found.append(Found(MUTATIONS[1].name, "survived", "", 3.0))
    mutations.write(tmp_path, "abc", found)
    page = (tmp_path / "mutations.md").read_text()
    assert "| killed | `tests/flow/test_x.py::test_y` | 2 |" in page
    assert page.endswith("1 of 2 mutations were noticed.\n")
    assert mutations.earlier(tmp_path, "abc") == found
    assert mutations.earlier(tmp_path, "another") == []
    assert mutations.earlier(tmp_path / "nowhere", "abc") == []


def test_its_help_is_shown():
    program = [sys.executable, str(mutations.ROOT / "benchmarks" / "mutations.py"), "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert "Do the default tests notice a wrong formula?" in shown
