"""The package as users get it: pinned, documented, and runnable from a wheel in any folder."""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import diffopd
from diffopd.__main__ import COMMANDS
from diffopd.config.aliases import choices
from diffopd.config.experiments import experiment_lines

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diffopd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REWARD = """
class Redness:
    def __call__(self, images, prompts):
        return images[:, 0].mean((1, 2))
"""


def requirement_name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9_.-]+?(?=[><=!~\[; ]|$)", requirement)[0].lower().replace("_", "-")


def test_every_direct_dependency_is_pinned_and_nothing_else():
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    wanted = {requirement_name(r) for group in groups for r in group}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines), lines
    assert {requirement_name(line) for line in lines} == wanted


def test_requirements_have_lower_bounds_and_no_caps():
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    for requirement in (r for group in groups for r in group):
        assert re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", requirement), requirement


def bounds_of(requirements):
    return {
        requirement_name(text): SpecifierSet(text[len(requirement_name(text)) :]) for text in requirements
    }


def test_the_tested_versions_lie_inside_the_bounds():
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    bounds = bounds_of(text for group in groups for text in group)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    outside = [name for name, _, version in pins if version not in bounds[requirement_name(name)]]
    assert outside == []


KNOWN_HOLES = {
    "torch": "2.9.1",  # weights_only, CVE-2026-24747
    "lightning": "2.6.5",  # weights_only, CVE-2026-58659; 2.6.2 and 2.6.3 were compromised
    "transformers": "5.9.0",  # a tokenizer is saved outside its folder, CVE-2026-9856
    "hydra-core": "1.3.2",  # instantiates anything, CVE-2026-68508
    "filelock": "3.20.2",  # CVE-2026-22701
    "starlette": "1.3.0",  # limits of a request ignored, CVE-2026-54283
    "pillow": "12.2.0",  # PYSEC-2026-2253
    "opencv-python-headless": "4.11.0.86",  # CVE-2025-53644
}


def test_no_release_with_a_known_hole_is_inside_the_bounds():
    bounds = bounds_of(PROJECT["project"]["dependencies"])
    assert [name for name, version in KNOWN_HOLES.items() if version in bounds[name]] == []


def test_one_program_for_all_commands(monkeypatch, capsys):
    module, _, name = PROJECT["project"]["scripts"]["diffopd"].partition(":")
    program = getattr(importlib.import_module(module), name)
    monkeypatch.setattr(f"{module}.begin", lambda: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffopd", *arguments])
        program()
        return capsys.readouterr().out

    assert run("--version") == f"diffopd {diffopd.__version__}\n"
    for shown in (run(), run("--help")):
        for command in COMMANDS:
            config = yaml.safe_load((ROOT / "conf" / f"{command}.yaml").read_text())
            header = config["hydra"]["help"]["header"].splitlines()[0]
            assert f"\n  {command:<14} {header}\n" in shown
    with contextlib.suppress(SystemExit):  # Hydra ends its own help so
        run("help", "export")
    assert capsys.readouterr().out.startswith("Export a trained adapter")
    assert set(COMMANDS) == {file.stem for file in (ROOT / "conf").glob("*.yaml")} - {"aliases"}
    monkeypatch.setattr(sys, "argv", ["diffopd", "trian"])
    with pytest.raises(SystemExit) as end:
        program()
    assert end.value.code == 2
    assert capsys.readouterr().err == "diffopd trian: there is no such command; did you mean train?\n"


def test_the_program_lists_every_experiment_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr("diffopd.__main__.begin", lambda: None)
    folder = ROOT / "conf" / "experiment"
    monkeypatch.setattr(sys, "argv", ["diffopd", "experiments"])
    importlib.import_module("diffopd.__main__").main()
    head, empty, *lines = capsys.readouterr().out.splitlines()
    assert (head, empty) == ("diffopd train +experiment=<name> [setting=value ...]", "")
    listed = dict(line.split(maxsplit=1) for line in lines)
    files = {str(file.relative_to(folder))[: -len(".yaml")] for file in folder.rglob("*.yaml")}
    assert set(listed) == files | set(choices("experiment"))
    assert listed["teacher_ocr"] == "teacher with task=ocr"
    assert listed["ablation/states"] == "Do all states have to be trained, or do a few do?"
    assert [name for name, line in listed.items() if len(line) < 15 or line.startswith("The same")] == []

    monkeypatch.setattr(sys, "argv", ["diffopd", "experiments", "loss=opd"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("diffopd.__main__").main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "diffopd experiments has no settings, got loss=opd\n"


def test_an_experiment_without_a_comment_is_an_error(tmp_path):
    (tmp_path / "mine.yaml").write_text("# @package _global_\nname: mine\n# Not here.\n")
    with pytest.raises(ValueError, match=r"mine\.yaml must begin with a comment"):
        experiment_lines(tmp_path)


def test_a_command_of_the_program_gets_its_arguments_and_the_working_directory(monkeypatch, tmp_path):
    from diffopd import __main__

    (tmp_path / "stand_in.py").write_text(
        "import sys\ncalls = []\ndef main(): calls.append(list(sys.argv))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setattr(__main__, "begin", lambda: None)
    monkeypatch.setitem(__main__.COMMANDS, "paper_table", "stand_in")
    monkeypatch.setattr(sys, "argv", ["/env/bin/diffopd", "paper-table", "a=1", "--cfg", "job"])
    __main__.main()
    assert sys.modules.pop("stand_in").calls == [["diffopd paper_table", "a=1", "--cfg", "job"]]


def public_packages() -> list[str]:
    return sorted(p.parent.name for p in SOURCE.glob("*/__init__.py") if not p.parent.name.startswith("_"))


@pytest.mark.parametrize("package", public_packages())
def test_every_package_has_its_api_on_a_page_of_the_navigation(package):
    names = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    api = re.compile(rf"^::: diffopd\.{package}(\.\w+)*$", re.MULTILINE)
    assert [name for name in names if api.search((ROOT / "docs" / name).read_text(encoding="utf-8"))], (
        f"no page shows the API of diffopd.{package}; one of a config group belongs on a page of its own, "
        "others in docs/internals.md"
    )


def test_citation_and_package_agree_on_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == diffopd.__version__


def test_the_change_log_begins_with_the_version_and_its_date():
    """What is not released yet may stand before it, and has no date."""
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    date = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["date-released"]
    assert released[0] == f"{diffopd.__version__} - {date}"
    assert headings.index(released[0]) <= 1


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE) == phony


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("diffopd-*.whl"))


@pytest.mark.slow
def test_wheel_holds_configs_assets_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"diffopd/conf/{p.relative_to(ROOT / 'conf')}" for p in (ROOT / "conf").rglob("*.yaml")}
    sources = {
        f"diffopd/{p.relative_to(SOURCE)}"
        for p in SOURCE.rglob("*")
        if p.is_file() and p.suffix != ".pyc" and p.name != ".DS_Store"
    }
    assert configs <= names
    assert sources <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "conf/"))]


@pytest.mark.slow
def test_wheel_runs_from_any_folder(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str | Path) -> str:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=elsewhere, env=environment
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Only the package comes from the wheel; what it depends on is that of the tests.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    assert run(python, "-c", "import diffopd; print(diffopd.__file__)").startswith(str(site))
    assert "reward_server" in run(python.parent / "diffopd", "--help")
    listed = run(python.parent / "diffopd", "train", "--help")
    assert "mopd_ode" in listed
    assert "reverse_kl" in listed

    (elsewhere / "my_reward.py").write_text(REWARD)
    own = (
        "reward=custom",
        "reward._target_=my_reward.Redness",
        "~report",
        "data.tasks.aesthetic.group_size=2",
    )
    few = ("trainer.max_epochs=1", "trainer.num_threads=1", "data.tasks.aesthetic.prompts_per_round=1")
    assert "reward/aesthetic" in run(
        python, "-m", "diffopd.train", "+experiment=teacher_aesthetic", *own, *few, "trainer.accelerator=cpu"
    )
