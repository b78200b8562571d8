"""Every command that a page, a help text or a config's comment shows is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from diffopd import convert
from diffopd.__main__ import COMMANDS
from diffopd.check.combination import combination_problems
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.arguments import hydra_arguments
from diffopd.config.flags import check_flags
from diffopd.config.folder import config_folder
from diffopd.config.saved import from_arguments
from diffopd.evaluate.settings import register_evaluation_id

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]
HELP = [ROOT / "conf" / f"{command}.yaml" for command in COMMANDS]
PROGRAM = re.compile(r"(?:^|[\s`\"'/])(?:(?:python )?-m diffopd[. ]|diffopd )(\w+)(?= |$|`)(.*)")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python -m )?diffopd[. ][^`]+)`")
BARE = re.compile(r"(python -m )?diffopd[. ]\w+")
"""A command that is only named."""
WITH_A_VALUE = ("--config-dir", "--cfg")


def shown_in(text: str) -> list[str]:
    """Lines of code blocks and inline code that call a command."""
    text = text.replace("\\\n", " ")
    blocks = FENCE.findall(text)
    prose = FENCE.sub("", text)
    indented = [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    inline = [line for line in INLINE.findall(prose) if not BARE.fullmatch(line)]
    return [line for block in blocks for line in block.splitlines()] + indented + inline


def commands() -> dict[tuple[str, ...], str]:
    """Program and arguments -> the first page that shows them."""
    lines = [(page, line) for page in PAGES for line in shown_in(page.read_text(encoding="utf-8"))]
    for page in HELP:
        header = yaml.safe_load(page.read_text(encoding="utf-8"))["hydra"]["help"]["header"]
        shown = [line for line in header.splitlines() if line.startswith("python")]
        lines += [(page, re.split(r" {2,}", line)[0]) for line in shown]
    found: dict[tuple[str, ...], str] = {}
    for page, line in lines:
        match = PROGRAM.search(line)
        if match is None or match[1] not in COMMANDS:
            continue
        rest = re.sub(r"\$\{?\w+\}?", "x", match[2])
        if "..." in rest or "<" in rest:  # a pattern, not a command
            continue
        arguments = [argument for word in shlex.split(rest, comments=True) for argument in braces(word)]
        found.setdefault((match[1], *arguments), str(page.relative_to(ROOT)))
    return found


def braces(word: str) -> list[str]:
    """What bash makes of ``a.{b,c}.d=1``; a mapping is quoted there, and has a colon."""
    before, _, rest = word.partition("{")
    inside, closed, after = rest.partition("}")
    if not closed or ":" in inside or "," not in inside:
        return [word]
    return [f"{before}{part}{after}" for part in inside.split(",")]


register_evaluation_id()
COMMANDS_SHOWN = commands()
BY_PAGE = [
    pytest.param(shown, marks=pytest.mark.slow) if page.startswith("experiments") else shown
    for shown, page in COMMANDS_SHOWN.items()
]
"""Those that only an experiment's page shows are tried by `make test-slow`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user has followed the pages: their files, and a run."""
    folder = tmp_path_factory.mktemp("user")
    pages = [(ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("own_reward", "teacher")]
    page = "\n".join(pages)
    for name, text in re.findall(r"^`([\w./]+)`:\n\n```\w*\n(.*?)```", page, flags=re.MULTILINE | re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        run = compose("train", overrides=["+experiment=mopd_ode", "paths.run=runs/mopd_ode/seed0"])
    (folder / "runs/mopd_ode/seed0").mkdir(parents=True)
    OmegaConf.save(run, folder / "runs/mopd_ode/seed0/config.yaml", resolve=True)
    return folder


def test_the_pages_show_every_command():
    assert {program for program, *_ in COMMANDS_SHOWN} == set(COMMANDS)
    assert len(COMMANDS_SHOWN) > 60


@pytest.mark.parametrize("shown", BY_PAGE, ids=lambda shown: " ".join(shown)[:80])
def test_commands_of_the_pages_are_taken(shown, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    program, *arguments = shown
    check_flags(arguments)
    name, overrides, config_dir = read(program, arguments)
    if "--help" in overrides:
        return
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose(name, overrides=[*overrides, *config_dir])
    values = plain_values(cfg)
    assert list(setting_problems(values, "train" if name == "train_from" else program)) == []
    assert list(combination_problems(values)) == []


def read(program, arguments):
    """Primary config, overrides with the first value of each sweep, and a config folder as an override."""
    terms = {"convert": convert.TERMS, "train": {"short": {}}, "doctor": {"short": {}}}
    taken = hydra_arguments(arguments, **terms.get(program, {}))
    taken = from_arguments(taken) if program == "train" else taken
    name, config_dir, overrides = program, [], []
    queue = iter(taken)
    for argument in queue:
        if argument == "--config-name":
            name = next(queue)
        elif argument in WITH_A_VALUE:
            value = next(queue)
            config_dir = (
                [f"hydra.searchpath=[file://{Path(value).absolute()}]"] if argument == "--config-dir" else []
            )
        elif argument != "-m" and not argument.startswith(
            ("hydra/launcher=", "hydra.launcher.")
        ):  # an extra's
            overrides.append(argument if argument == "--help" else first_of_sweep(argument))
    return name, overrides, config_dir


def first_of_sweep(argument):
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return argument
    return f"{argument.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"
