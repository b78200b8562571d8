"""Every number that conf/ can reach has a range with two finite ends, and is refused just beyond them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffopd.check import ConfigError, check_config
from diffopd.check.annotation import Allowed, allowed_by
from diffopd.check.limit import limit_problems, rules_of
from diffopd.check.ranges import ANYWHERE, LIMITS
from diffopd.check.rule import HeightAndWidth, Numbers, OneOf, Range, RangeOrShare
from diffopd.check.source import read_target
from diffopd.config.aliases import aliases
from diffopd.evaluate.settings import register_evaluation_id

CONF = Path(__file__).parents[2] / "conf"
LEFT_OUT = {"hydra", "aliases.yaml"}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
OPTIMIZERS = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam",
    "RMSprop", "Rprop", "SGD",
)  # fmt: skip
SWITCHES = {"foreach", "fused", "amsgrad", "nesterov", "centered", "decoupled_weight_decay"}

register_evaluation_id()  # as diffopd.evaluate does


@cache
def read(file: Path) -> Any:
    if not file.is_file():
        return aliases()[file.relative_to(CONF).with_suffix("").as_posix()]
    return yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}


def numbers_of(node: Any, path: str) -> Iterator[str]:
    """Config path of every number in a node, and of every argument that may be one."""
    if isinstance(node, dict):
        name = node.get("_target_")
        target = read_target(name) if isinstance(name, str) else None
        for key, parameter in (target.parameters if target else {}).items():
            yield from numbers_allowed(f"{path}.{key}", allowed_by(parameter))
        for key, value in node.items():
            if key not in ("defaults", "hydra"):
                yield from numbers_of(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from numbers_of(value, f"{path}.{number}")
    elif (isinstance(node, (int, float)) and not isinstance(node, bool)) or (
        isinstance(node, str) and NUMBER.fullmatch(node)
    ):
        yield path


def numbers_allowed(path: str, allowed: Allowed) -> Iterator[str]:
    if {"int", "float"} & allowed.kinds:
        yield path
    if allowed.items and {"int", "float"} & allowed.items.kinds:
        yield f"{path}.0"


def files_at(file: Path, package: str) -> Iterator[tuple[Path, str]]:
    """A file with those it is made of, each with the place its keys go to."""
    yield file, package
    group = file.parent.relative_to(CONF).as_posix()
    for entry in read(file).get("defaults") or ():
        if not isinstance(entry, dict):  # a neighbour, or /group/choice@place
            name, _, at = str(entry).partition("@")
            folder, _, choice = name.rpartition("/")
            entry = {f"{folder or f'/{group}'}{'@' * bool(at)}{at}": choice}
        for key, choice in entry.items():
            if choice in ("_self_", "???", None) or "hydra" in key or "@_global_" in key:
                continue
            name, _, at = key.removeprefix("override ").partition("@")
            own = (name.strip("/") == group and not at) or at == "_here_"
            where = package if own else f"{package}.{at or name.strip('/')}".strip(".")
            yield from files_at(CONF / name.strip("/") / f"{choice}.yaml", where)


@cache
def settings() -> tuple[str, ...]:
    """Config path of every number, over all files of all groups and all commands."""
    found: set[str] = set()
    for file in sorted(CONF.rglob("*.yaml")):
        parts = file.relative_to(CONF).parts
        if parts[0] in LEFT_OUT:
            continue
        globally = "# @package _global_" in file.read_text(encoding="utf-8") or len(parts) == 1
        package = "" if globally else parts[0]
        for part, where in [(file, "")] if globally else files_at(file, package):
            found.update(numbers_of(read(part), where))
    for name in OPTIMIZERS:
        target = read_target(f"torch.optim.{name}")
        assert target is not None
        for place in ("optimizer", "phase.fake_optimizer"):
            found.update(
                f"{place}.{key}" for key in set(target.parameters) - {"params", "adjust_lr_fn"} - SWITCHES
            )
    return tuple(sorted(found))


def test_the_settings_that_are_looked_for_are_found():
    assert len(settings()) > 300
    some = {
        "optimizer.lr", "optimizer.betas.0", "phase.ema.decay", "phase.fake_optimizer.lr", "sampler.shift",
        "benchmark.sampler.num_steps", "phase.held_out.spectrum.shares.3",
        "phase.estimators.ppo_sum.clip_low",
        "trainer.devices", "trainer.strategy.timeout_minutes", "adapter.merge.weights.0",
        "teacher.teachers.composition.guidance_scale", "reward.rewards.ocr.recognizer.upscale", "port",
        "callbacks.round_checkpoint.keep_every_n_rounds", "hardware.micro_batch_size", "optimizer.momentum",
    }  # fmt: skip
    # A merge's weights are null in every file; what they may be is in the table all the same.
    assert some - {"adapter.merge.weights.0", "teacher.teachers.composition.guidance_scale"} <= set(
        settings()
    )


def test_every_number_has_a_range():
    kinds = (Range, RangeOrShare, HeightAndWidth, OneOf, Numbers)
    without = [path for path in settings() if not any(isinstance(rule, kinds) for rule in rules_of(path))]
    assert without == []


def edges(rule: Range) -> tuple[list[float], list[float]]:
    """Numbers that are just allowed, and such as are just not."""
    if rule.whole:
        return [rule.low, rule.high, (int(rule.low) + int(rule.high)) // 2], [rule.low - 1, rule.high + 1]
    inside = [(rule.low + rule.high) / 2]
    outside = [math.nextafter(rule.low, -math.inf), math.nextafter(rule.high, math.inf)]
    (outside if rule.open_low else inside).append(rule.low)
    (outside if rule.open_high else inside).append(rule.high)
    return inside, outside


@pytest.mark.parametrize("beyond", [math.inf, -math.inf, math.nan, 1e38, -1e38, 10**30, "text", True, [], {}])
def test_what_no_range_holds(beyond):
    for path in settings():
        for rule in rules_of(path):
            if isinstance(rule, Range) and beyond not in rule.also:
                assert not rule.holds(beyond), path
                assert list(limit_problems(path, beyond)) or isinstance(beyond, list), path


def test_every_range_holds_to_its_ends_and_no_further():
    for path in {*settings(), *(pattern.replace("*", "x") for pattern in (*LIMITS, *ANYWHERE))}:
        for rule in rules_of(path):
            if not isinstance(rule, Range):
                continue
            inside, outside = edges(rule)
            for value in (*inside, *rule.also):
                assert list(limit_problems(path, value)) == [], (path, value)
            for value in outside:
                if value not in rule.also:
                    assert list(limit_problems(path, value)) == [f"{path}={value} must be {rule}"], (
                        path,
                        value,
                    )
            if rule.whole:
                assert not rule.holds(rule.low + 0.5), path
            if None not in rule.also:
                assert not rule.holds(None), path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phase.ema.decay=1", "phase.ema.decay=1 must be a number in [0, 1)"),
        ("sampler.shift=1e30", "sampler.shift=1e+30 must be a number in (0, 100]"),
        ("sampler.noise_level=100", "sampler.noise_level=100 must be a number in [0, 10]"),
        ("optimizer.lr=1e10", "optimizer.lr=10000000000.0 must be a number in (0, 10]"),
        ("optimizer.lr=1e38", "optimizer.lr=1e+38 must be a number in (0, 10]"),
        ("optimizer.weight_decay=1e30", "optimizer.weight_decay=1e+30 must be a number in [0, 10]"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9] must be a list of 2 numbers"),
        ("optimizer.betas=[0.9,0.9,0.9]", "optimizer.betas=[0.9, 0.9, 0.9] must be a list of 2 numbers"),
        ("+optimizer.capturable=true", "optimizer.capturable=true must be false"),
        ("+optimizer.differentiable=true", "optimizer.differentiable=true must be false"),
        ("+optimizer.maximize=true", "optimizer.maximize=true must be false"),
        ("teacher.teachers.ocr.guidance_scale=2147483648",
         "teacher.teachers.ocr.guidance_scale=2147483648 must be a number in [0, 100], or null"),
        ("data.tasks.ocr.group_size=1000000000000",
         "data.tasks.ocr.group_size=1000000000000 must be a whole number from 1 to 10000"),
        ("trainer.num_threads=1000000",
         "trainer.num_threads=1000000 must be a whole number from 1 to 1024, or auto"),
        ("adapter.merge={method: exact, folders: [a, b], weights: [1e308, 1]}",
         "adapter.merge.weights.0=1e+308 must be a number in [0, 1000000]"),
        ("phase.gradient_clip=1e300", "phase.gradient_clip=1e+300 must be a number in (0, 1000000]"),
        ("+trainer.limit_train_batches=0",
         "trainer.limit_train_batches=0 must be a number in (0, 1000000000], or null"),
        ("trainer.max_epochs=null", "trainer.max_epochs=null must be a whole number from 1 to 1000000"),
        ("optimizer.betas=[{a: 1}, 0.9]", "optimizer.betas.0={'a': 1} must be a number in [0, 1)"),
        ("adapter.merge={method: svd, folders: [a], weights: 5}",
         "adapter.merge.weights=5 must be a list of numbers, or null"),
        ("model.prompt_cache=''", "model.prompt_cache= must be text, and not empty, or null"),
        ("callbacks.round_checkpoint.folder=''",
         "callbacks.round_checkpoint.folder= must be text, and not empty"),
        ("logger.tensorboard.save_dir=null", "logger.tensorboard.save_dir=null must be text, and not empty"),
        ("adapter.start=''", "adapter.start= must be text, and not empty, or null"),
        ("paths.root=null", "paths.root=null must be text, and not empty"),
        ("paths.run=''", "paths.run= must be text, and not empty"),
        ("name=' '", "name=  must be text, and not empty"),
    ],
)  # fmt: skip
def test_numbers_without_sense_are_errors(composed, override, message):
    with pytest.raises(ConfigError) as refused:
        check_config(composed("+experiment=mopd_ode", override))
    assert message in str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("train", "adapter.merge={method: 5, folders: [a], weights: null}",
         "adapter.merge.method=5 must be one of exact, svd, elementwise"),
        ("train", "adapter.merge={method: svd, folders: 5, weights: null}",
         "adapter.merge.folders=5 must be a list of texts (at least 1), none of them empty"),
        ("train", "adapter.merge={method: svd, folders: [a, null], weights: null}",
         "adapter.merge.folders=['a', None] must be a list of texts (at least 1), none of them empty"),
        ("train", "adapter.merge={method: svd, folders: [], weights: null}",
         "adapter.merge.folders=[] must be a list of texts (at least 1), none of them empty"),
        ("report", "runs=null",
         "runs=null must be a list of texts (at least 1), none of them empty, or one text"),
        ("report", "runs=[]",
         "runs=[] must be a list of texts (at least 1), none of them empty, or one text"),
        ("report", "out=[a]", "out=['a'] must be text, and not empty"),
        ("report", "labels=[a]", "labels=['a'] must be a mapping, or null"),
        ("report", "test=t", "test=t must be one of by_rule, welch, paired"),
        ("report", "keep_data=5", "keep_data=5 must be one of true, false"),
        ("report", "running_mean={a: 1}",
         "running_mean={'a': 1} must be a whole number from 1 to 100001"),
        ("table", "seeds={a: 1}", "seeds={'a': 1} must be a whole number from 1 to 1000"),
        ("table", "benchmarks=null",
         "benchmarks=null must be a list of texts (at least 1), none of them empty"),
        ("table", "shared={a: 1}", "shared={'a': 1} must be a list of texts, none of them empty"),
        ("table", "rows.opd.command=5", "rows.opd.command=5 must be one of train, cascade, null"),
        ("table", "rows.opd.arguments=text",
         "rows.opd.arguments=text must be a list of texts, none of them empty"),
        ("ablations", "ablations=null",
         "ablations=null must be a list of texts (at least 1), none of them empty, or all"),
        ("ablations", "ablations=[]",
         "ablations=[] must be a list of texts (at least 1), none of them empty, or all"),
        ("ablations", "overrides=5", "overrides=5 must be a list of texts, none of them empty"),
        ("ablations", "first.teacher_quality.ocr_25=5",
         "first.teacher_quality.ocr_25=5 must be a list of texts (at least 1), none of them empty"),
        ("cascade", "stages.ocr.overrides=5",
         "stages.ocr.overrides=5 must be a list of texts, none of them empty"),
        ("paper_table", "columns=5", "columns=5 must be a mapping"),
        ("paper_table", "+models.mine={results: x, hours: null}",
         "models.mine.results=x must be a list of texts (at least 1), none of them empty"),
        ("reward_server", "paths=5", "paths=5 must be a mapping"),
        ("evaluate", "device=0", "device=0 must be text, and not empty"),
    ],
)  # fmt: skip
def test_what_is_no_number_has_its_kind_in_every_command(command, override, message):
    import diffopd.evaluate  # noqa: F401  # names an evaluation, for its config

    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["+experiment=mopd_ode"] if command == "train" else []
        run = [] if override.startswith("paths") else ["paths.run=run"]
        cfg = compose(command, overrides=[*overrides, *run])
    key, _, value = override.lstrip("+").partition("=")
    OmegaConf.set_struct(cfg, False)
    parent, _, last = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    node._content.pop(last, None)  # whatever stood there, so that its kind does not forbid another
    node[last] = yaml.safe_load(value)
    with pytest.raises(ConfigError) as refused:
        check_config(cfg, command)
    assert message in str(refused.value).splitlines()
