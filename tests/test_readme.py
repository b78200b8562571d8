"""What the README shows works as it stands there, and so does the page it sends to for diffusers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from diffopd.adapter import export_lora, load_adapter
from diffopd.config.arguments import hydra_arguments
from diffopd.config.folder import config_folder
from diffopd.model.untrained import pipeline_to_train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPORT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^diffopd (\w+) (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def test_the_readme_begins_with_the_two_commands():
    block = README.split("```")[1].splitlines()
    assert [line.split("#")[0].split() for line in block[1:3]] == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


def test_the_readme_shows_how_to_train_sample_and_evaluate():
    assert {program for program, _ in COMMANDS} == {"doctor", "train", "sample", "evaluate", "export"}


def test_the_first_screen():
    """A sentence, a picture, two commands, then three lines each for one's own model and one's own reward."""
    top, _, _ = README.partition("\n## ")
    assert len(top.splitlines()) <= 35
    title, empty, sentence, *_ = top.splitlines()
    assert (title, empty) == ("# diffopd", "")
    assert sentence.endswith(".")
    assert "**" not in sentence
    assert len(re.findall(r"!\[", README)) == 1
    assert top.index("![") < top.index("make demo") < top.index("source .venv/bin/activate")
    for name in ("**Your own model**", "**Your own pictures**"):
        block = top[top.index(name) :].split("```")[1]
        assert len(block.strip().splitlines()) == 1 + 3, name


def test_every_page_is_reached_from_the_readme_or_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert {name for name in pages if f": {name}\n" not in navigation} == set()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_papers_to_cite_are_those_that_the_code_names():
    citing = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src" / "diffopd").rglob("*.py"))
    identifiers = set(re.findall(r"arXiv:([\d.]+\d)", citing))
    assert len(identifiers) > 8
    assert {number for number in identifiers if number not in code} == set()
    shown = re.search(r"## Cite\n\n(```.*?```)", README, re.DOTALL)[1]
    entries = re.findall(r"^@.*?^}$", shown, re.MULTILINE | re.DOTALL)
    assert len(entries) == 2
    assert all(entry in citing for entry in entries)


def test_the_entries_to_cite_are_those_of_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"title   = {{{citation['title']}}}" in README
    assert f"version = {{{citation['version']}}}" in README
    assert f"year    = {{{citation['date-released'][:4]}}}" in README
    (paper,) = citation["references"]
    assert f"title   = {{{paper['title']}}}" in README
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert " and ".join(authors) in " ".join(README.split())
    assert paper["identifiers"][0]["value"] in README


@pytest.mark.parametrize(("program", "line"), COMMANDS)
def test_commands_compose(program, line):
    terms = {"short": {}} if program in ("train", "doctor") else {}
    arguments = [a for a in hydra_arguments(shlex.split(line), **terms) if a != "-m"]
    first_of_each_sweep = [re.sub(r"=([\d.]+),.*", r"=\1", argument) for argument in arguments]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert compose(program, overrides=first_of_each_sweep)


def test_the_snippet_runs_with_stock_diffusers(tmp_path, monkeypatch):
    pipeline = pipeline_to_train(path=str(ROOT / "src/diffopd/assets/mini_sd3"))
    load_adapter(pipeline.transformer, "student", ROOT / "src/diffopd/assets/teachers/ocr")
    export_lora(pipeline.transformer, "student", tmp_path / "runs/mopd_balanced/seed0/lora")
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", EXPORT, flags=re.DOTALL)
    exec(compile(snippet, "export.md", "exec"), {})
    assert (tmp_path / "cat.png").stat().st_size > 0
