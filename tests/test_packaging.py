"""The package as users get it: pinned, documented, and runnable from a wheel in any folder."""

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

import diffopd

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


def public_packages() -> list[str]:
    return sorted(p.parent.name for p in SOURCE.glob("*/__init__.py") if not p.parent.name.startswith("_"))


@pytest.mark.parametrize("package", public_packages())
def test_every_package_has_a_page_in_the_navigation(package):
    page = ROOT / "docs" / f"{package}.md"
    assert page.is_file(), f"{package} needs docs/{package}.md"
    assert f"{package}.md" in (ROOT / "mkdocs.yml").read_text()
    api = re.compile(rf"^::: diffopd\.{package}(\.\w+)?$", re.MULTILINE)
    assert api.search(page.read_text()), "the page must end in the API of the package or of its modules"


def test_citation_and_package_agree_on_version():
    assert f"version: {diffopd.__version__}\n" in (ROOT / "CITATION.cff").read_text()


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
    listed = run(python, "-m", "diffopd.train", "--help")
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
