"""The pages made from ``conf/`` have all of it, in the words of its files and of the checks."""

from __future__ import annotations

import re
from pathlib import Path

import conf_files
import experiments_page
import hook
import pytest
import settings_page
from mkdocs.config import load_config
from mkdocs.structure.files import Files
from omegaconf import DictConfig, OmegaConf

from diffopd.check.setting import HYDRA_KEYS
from diffopd.config.aliases import GLOBAL, aliases, choices

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page():
    return settings_page.page()


def leaves(node, place=()):
    """Paths of all values of a file, those of lists left whole."""
    for key, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig) and len(value):
            yield from leaves(value, (*place, str(key)))
        elif key not in HYDRA_KEYS:
            yield ".".join((*place, str(key)))


@pytest.mark.parametrize("group", sorted(set(conf_files.groups()) - set(conf_files.CONTENT)))
def test_every_value_of_a_group_is_read(group):
    for choice in conf_files.groups()[group]:
        file = ROOT / "conf" / group / f"{choice.name}.yaml"
        node = (
            OmegaConf.load(file) if file.is_file() else OmegaConf.create(aliases()[f"{group}/{choice.name}"])
        )
        of_all = group in GLOBAL or (file.is_file() and "# @package _global_" in file.read_text())
        place = () if of_all else (group,)
        assert isinstance(node, DictConfig)
        node.pop("defaults", None)
        assert set(leaves(node, place)) <= {setting.path for setting in choice.settings}
        assert choice.purpose, f"nothing says what {group}/{choice.name} is"


def test_every_choice_is_there_once():
    for group, listed in conf_files.groups().items():
        assert [choice.name for choice in listed] == choices(group)


def test_every_command_and_group_is_on_the_page(page):
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir() and folder.name not in conf_files.OTHER_PAGES:
            assert f"\n## `{folder.name}` {{#{folder.name}}}\n" in page
    for file in (ROOT / "conf").glob("*.yaml"):
        assert f"\n### `diffopd.{file.stem}` {{#command-{file.stem}}}\n" in page


def test_links_within_the_page_lead_somewhere(page):
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= set(re.findall(r"\{#([\w-]+)\}", page))


def cells(page):
    """The cells of every line of a table."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return {tuple(re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))) for line in lines}


def test_rows_say_default_limit_and_comment(page):
    shift = "> 0; above 1 spends more steps at high noise"
    decay = "decay of the two running means, in [0, 1)"
    anchor = "opd = as the distillation loss, with or without noise; velocity_uniform = \\|v - v_anchor\\|^2"
    opd = "The paper's loss: ode_l2 at steps without noise, reverse_kl at steps with noise."
    several = "a list of 2 numbers; each a number in [0, 1)"
    solvers = "`cps`, `dance`, `ddim`, `dpm1`, `dpm2`, `flow`"  # another choice brings a rule of its own
    width = "> 0; c: below it the distance is quadratic"
    assert cells(page) >= {
        ("`sampler.shift`", "`${model.shift}`", "a number in (0, 100]", shift, solvers),
        ("`loss.huber_width`", "`1.0e-3`", "a number in (0, 1000000]", width, "`tdm`"),
        ("`optimizer.betas`", "`[0.9, 0.999]`", several, decay, "`adamw`"),
        ("`regulariser.loss`", "[`opd`](#loss)", "a choice of `loss`", anchor, "`anchor`"),
        ("`opd`", opd, "`diffopd.loss.OPD`"),
        ("`lora_small`", "Half the rank, for the embedded model.", "`lora`", ""),
        ("`clipscore`", "mean with reward=clipscore, scale=table", "`mean`", ""),
        ("`minimal`", "Only the guard against non-finite values: for timing and tests.", "`finite_loss`"),
    }


def test_comments_of_values_on_one_line_and_on_several(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# What it is,\n# in two lines.\n"
        "defaults:\n  - /loss@inner: opd  # of the inner one\n  - b\n  - _self_\n"
        "_target_: ???  # yours\n# and more\n"
        'plain: "a # b"  # said\n'
        "listed:  # above the list\n  - 1\n  - 2\n"
        "node:\n  deep: {}  # empty\n"
    )
    (tmp_path / "b.yaml").write_text("# B.\n_target_: diffopd.loss.OPD\n")
    choice = conf_files.read(tmp_path / "a.yaml", "mine")
    assert (choice.purpose, choice.starts_as, choice.target) == ("What it is, in two lines.", ("b",), None)
    assert [(s.path, s.default, s.note) for s in choice.settings] == [
        ("mine.inner", "opd", "of the inner one"),
        ("mine._target_", "???", "yours and more"),
        ("mine.plain", '"a # b"', "said"),
        ("mine.listed", "[1, 2]", "above the list"),
        ("mine.node.deep", "{}", "empty"),
    ]


@pytest.mark.slow
def test_every_experiment_has_one_line():
    page = experiments_page.page()
    for folder in (ROOT / "conf" / "experiment", ROOT / "conf" / "experiment" / "ablation"):
        for file in folder.glob("*.yaml"):
            assert f"\n| `{file.stem}` |" in page
    question = (
        "Does the student learn as well from SDE rollouts at noise level 0.7, by the exact reverse KL of "
    )
    question += "Eq. 11?"
    trains = "a student of the teachers composition, ocr, aesthetic"
    sampler = "`flow`, noise 0.7, 10 steps"
    assert ("`mopd_sde`", question, "Figure 6", trains, "`distill`", sampler, "`opd`", "220") in cells(page)
    assert "| `mopd_ode` | `loss=ode_l2,velocity_uniform,clean_l2`; seeds 0,1,2 |" in page


def test_the_hook_adds_its_pages_to_this_site_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments_page, "page", lambda: "# Experiments\n")
    config = load_config(str(ROOT / "mkdocs.yml"))
    config.plugins._current_plugin = "hook"  # whose pages they are; MkDocs says so while it builds
    assert {file.src_uri for file in hook.on_files(Files([]), config)} == {
        "reference/settings.md",
        "reference/experiments.md",
        "reference/metrics.md",
    }
    (tmp_path / "docs").mkdir()
    other = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(tmp_path / "docs"))
    assert not list(hook.on_files(Files([]), other))
