"""Configs with mistakes: any experiment on the tiny world, with one to four things changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffopd.config.aliases import choices
from diffopd.config.folder import config_folder

CONF = Path(config_folder())
OF_ANY_TASK = ("teacher", "guard", "flow_grpo", "ram", "rvm", "few_step")
"""Experiments that are tried under the names that have a task, such as teacher_ocr."""
EXPERIMENTS = [name for name in choices("experiment") if name not in OF_ANY_TASK]
LEFT_ALONE = ("paths", "hydra", "name", "run_id")
"""Where things are written, which the tests decide."""

WILD = (
    "null", "true", "false", "text", "''", "???", "[]", "{}", "[1,2]", "[a,b]", "[null]", "{a:1}",
    "{lr:0.1,b:[1]}", "nan", "inf", "-inf", "-1", "-0.5", "0", "0.0", "1", "1.0", "0.5", "1.5", "2", "3", "7",
    "1e-12", "'1'", "'0.5'", "${nope}", "${seed}", "${name}", "${phase}", "${trainer.max_epochs}",
    "${oc.env:NOPE}", "${nope:1}", "auto", "mean", "sum", "fp32", "bf16", "all", "group", "package://nope",
    "no/such/folder",
)  # fmt: skip
"""Values of every kind; numbers stay small, as a size that is allowed and huge would be waited for."""


@dataclass(frozen=True)
class Case:
    """A command line.

    Attributes:
        experiment: A choice of ``experiment``.
        changes: Overrides on top of it, as typed.
    """

    experiment: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """What can be changed in an experiment.

    Attributes:
        leaves: Config path -> its value.
        nodes: Config paths of mappings.
        choices: Group as one overrides it, e.g. ``loss@regulariser.loss`` -> its choice.
    """

    leaves: Mapping[str, Any]
    nodes: tuple[str, ...]
    choices: Mapping[str, str]


@cache
def space_of(experiment: str) -> Space:
    """The space around an experiment."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"+experiment={experiment}"], return_hydra_config=True)
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    assert isinstance(choices, dict)
    found = list(_places(cfg, ""))
    return Space(
        leaves={place: value for place, value in found if not isinstance(value, DictConfig)},
        nodes=tuple(place for place, value in found if isinstance(value, DictConfig)),
        choices={
            str(group): str(choice)
            for group, choice in choices.items()
            if not str(group).startswith(("hydra", "paths", "experiment"))
        },
    )


def _places(node: DictConfig, path: str) -> Iterator[tuple[str, Any]]:
    for key in node:
        if not path and key in LEFT_ALONE:
            continue
        place = f"{path}.{key}" if path else str(key)
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            yield place, value
            yield from _places(value, place)
        else:
            yield place, None if value is None else value._value()


@cache
def groups() -> Mapping[str, tuple[str, ...]]:
    """Config groups and their choices."""
    folders = [folder for folder in CONF.iterdir() if folder.is_dir()]
    return {folder.name: tuple(choices(folder.name)) for folder in folders}


def cases() -> st.SearchStrategy[Case]:
    """Any experiment, changed in one to four places."""
    return st.sampled_from(EXPERIMENTS).flatmap(
        lambda name: st.builds(
            Case,
            experiment=st.just(name),
            changes=st.sampled_from((1, 1, 2, 2, 3, 4)).flatmap(
                lambda count: st.lists(
                    _change(space_of(name)), min_size=count, max_size=count, unique_by=_place
                ).map(tuple)
            ),
        )
    )


def _place(change: str) -> str:
    """What a change is of: the same twice would show one of them alone."""
    return change.partition("=")[0].lstrip("+~")


def _change(space: Space) -> st.SearchStrategy[str]:
    parts: dict[str, list[str]] = {}  # an experiment's benchmark has more leaves than all that trains
    for place in sorted(space.leaves):
        parts.setdefault(place.partition(".")[0], []).append(place)
    leaf = st.sampled_from(sorted(parts)).flatmap(lambda part: st.sampled_from(parts[part]))
    near = leaf.flatmap(lambda place: _near(space, place).map(lambda value: f"{place}={value}"))
    wild = leaf.flatmap(lambda place: st.sampled_from(WILD).map(lambda value: f"{place}={value}"))
    group = st.sampled_from(sorted(space.choices)).flatmap(
        lambda name: st.sampled_from((*groups()[name.partition("@")[0]], "null", "nope")).map(
            lambda choice: f"{name}={choice}"
        )
    )
    absent = sorted(set(groups()) - set(space.choices) - {"hydra", "experiment", "paths"})
    added = st.sampled_from(absent).flatmap(
        lambda name: st.sampled_from(groups()[name] or ("none",)).map(lambda choice: f"+{name}={choice}")
    )
    typo = st.tuples(leaf, st.integers(0, 30), st.sampled_from(("", "+"))).map(
        lambda drawn: f"{drawn[2]}{_misspelt(drawn[0], drawn[1])}=1"
    )
    unknown = st.sampled_from(space.nodes).map(lambda place: f"+{place}.no_such_setting=1")
    removed = st.sampled_from((*sorted(space.leaves), *space.nodes)).map(lambda place: f"~{place}")
    mapping = st.tuples(st.sampled_from(space.nodes), st.sampled_from(WILD)).map(
        lambda drawn: f"{drawn[0]}={drawn[1]}"
    )
    usual, odd = st.one_of(group, near, near, near, group), st.one_of(added, typo, unknown, removed, mapping)
    return st.one_of(usual, usual, usual, wild, odd)


def _near(space: Space, place: str) -> st.SearchStrategy[str]:
    """A value of the kind that is there, which may be in range or not."""
    value = space.leaves[place]
    if isinstance(value, bool):
        return st.just(str(not value).lower())
    if isinstance(value, int):
        numbers = dict.fromkeys((value + 1, value - 1, 2 * value, 1, 2, 3, 4, 5, 0, -value))
        return st.sampled_from([str(n) for n in numbers if n != value and n < 30])
    if isinstance(value, float):
        numbers = dict.fromkeys((value / 2, value * 2, 1 - value, -value, 0.0, 1.0))
        return st.sampled_from([f"{x:g}" for x in numbers if x != value])
    if isinstance(value, ListConfig | list) or place.endswith(("_modules", "betas", "metrics")):
        return st.sampled_from(
            ("[]", "[1]", "[0.5,0.9]", "[0,1,2]", "[a]", "[attn.to_q,attn.to_v]", "[[1],[2]]")
        )
    words = sorted(
        {str(v) for p, v in space.leaves.items() if isinstance(v, str) and p.rpartition(".")[2] != "_target_"}
        | set(_words())
    )
    if place.endswith("_target_"):
        words = sorted({str(v) for p, v in space.leaves.items() if p.endswith("_target_")})
    return st.sampled_from([_quoted(word) for word in words if word != value])


@cache
def _words() -> tuple[str, ...]:
    return (
        "mean", "sum", "all", "all_but_last", "fused", "two_pass", "global", "group", "binary",
        "positive_only", "accumulate", "alternate", "average", "student", "stop", "skip", "warn", "roll_back",
        "auto", "never", "fp32", "bf16", "fp16", "end", "random", "segment", "to_noise", "gaussian", "zeros",
    )  # fmt: skip


def _quoted(word: str) -> str:
    return word if word == "null" or word.startswith("${") else "'" + word.replace("'", "\\'") + "'"


def _misspelt(place: str, number: int) -> str:
    """The path with one letter of its last part left out, doubled or exchanged."""
    parent, _, key = place.rpartition(".")
    at = number % len(key)
    how = number % 3
    changed = (key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + "x" + key[at + 1 :])[how]
    return f"{parent}.{changed}" if parent else changed or "x"
