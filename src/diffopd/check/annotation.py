"""What values an annotation allows, as far as a config file can write them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffopd.check.error import did_you_mean
from diffopd.check.source import Module, Parameter, find_in

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "None": "null",
}
_WORDS = {**_KINDS, "list": "a list", "mapping": "a mapping", "object": "a mapping with _target_"}
_CONTAINERS = {"list", "mapping"}
_LISTS = {"list", "tuple", "Sequence", "Iterable", "Collection", "List", "Tuple", "set"}
_MAPPINGS = {"dict", "Mapping", "MutableMapping", "Dict"}


@dataclass(frozen=True)
class Allowed:
    """Values an argument takes.

    Attributes:
        kinds: Of ``int``, ``float``, ``bool``, ``str``, ``None``, ``list``, ``mapping``, ``object``, which is
            one that a mapping with ``_target_`` builds.
        choices: Single values beside those kinds.
        anything: True if the annotation says more than a config can be compared with.
        items: What the parts of a list or mapping may be; None if the annotation does not say.
    """

    kinds: frozenset[str] = frozenset()
    choices: tuple[Any, ...] = ()
    anything: bool = False
    items: Allowed | None = None

    def __or__(self, other: Allowed) -> Allowed:
        several = bool(_CONTAINERS & self.kinds) and bool(_CONTAINERS & other.kinds)
        return Allowed(
            self.kinds | other.kinds,
            self.choices + other.choices,
            self.anything or other.anything,
            None if several else self.items or other.items,
        )

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them; a whole number is a number, too."""
        if self.anything or any(value == c and type(value) is type(c) for c in self.choices):
            return True
        if isinstance(value, bool):
            return "bool" in self.kinds
        if isinstance(value, int):
            return bool({"int", "float"} & self.kinds)
        if isinstance(value, Mapping):
            return "mapping" in self.kinds or ("object" in self.kinds and "_target_" in value)
        if isinstance(value, list):
            return "list" in self.kinds
        return ("None" if value is None else type(value).__name__) in self.kinds

    def problem(self, path: str, value: Any) -> str:
        """Why ``value`` at ``path`` is refused, and what to write instead."""
        near = did_you_mean(shown(value), [choice for choice in self.choices if isinstance(choice, str)])
        return f"{path}={shown(value)} must be {self}{near}"

    def __str__(self) -> str:
        kinds = self.kinds - {"int"} if "float" in self.kinds else self.kinds
        parts = [_WORDS[kind] for kind in sorted(kinds - {"None"})]
        if self.choices:
            one_of = "one of " if len(self.choices) > 1 else ""
            parts.insert(0, one_of + ", ".join(dict.fromkeys(map(shown, self.choices))))
        if "None" in kinds:
            parts.append("null")
        return " or ".join(parts)


ANYTHING = Allowed(anything=True)


def allowed_by(parameter: Parameter) -> Allowed:
    """What a parameter takes."""
    return ANYTHING if parameter.annotation is None else _parse(parameter.annotation, parameter.module, 0)


def shown(value: Any) -> str:
    """A value as one writes it in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(expression: ast.expr, module: Module, depth: int) -> Allowed:
    if depth > 10:
        return ANYTHING
    if isinstance(expression, ast.Constant):
        if isinstance(expression.value, str):
            return _parse(ast.parse(expression.value, mode="eval").body, module, depth + 1)
        return Allowed(frozenset({"None"})) if expression.value is None else ANYTHING
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.BitOr):
        return _parse(expression.left, module, depth + 1) | _parse(expression.right, module, depth + 1)
    if isinstance(expression, ast.Subscript):
        return _parse_subscript(expression, module, depth)
    if isinstance(expression, ast.Name):
        if expression.id in _KINDS:
            return Allowed(frozenset({expression.id}))
        container = _container(expression.id)
        found = None if container else find_in(module, expression.id)
        if found and isinstance(found[1], ast.Assign):
            return _parse(found[1].value, found[0], depth + 1)
        if found and isinstance(found[1], ast.ClassDef) and found[0].name.startswith("diffopd."):
            return Allowed(frozenset({"object"}))
        return container or ANYTHING
    return ANYTHING


def _parse_subscript(expression: ast.Subscript, module: Module, depth: int) -> Allowed:
    name = ast.unparse(expression.value).rpartition(".")[2]
    parts = expression.slice.elts if isinstance(expression.slice, ast.Tuple) else [expression.slice]
    if name == "Literal":
        return Allowed(choices=tuple(ast.literal_eval(part) for part in parts))
    if name in ("Union", "Optional"):
        allowed = Allowed(frozenset({"None"})) if name == "Optional" else Allowed()
        for part in parts:
            allowed |= _parse(part, module, depth + 1)
        return allowed
    if name == "Callable":  # a node with _target_, which _partial_ makes a function of
        return Allowed(frozenset({"object"}))
    container = _container(name)
    if container is None:
        return ANYTHING
    of = parts[-1 if name in _MAPPINGS else 0]
    if name in ("tuple", "Tuple") and len(parts) > 1 and ast.unparse(parts[1]) != "...":
        return container
    items = _parse(of, module, depth + 1)
    return replace(container, items=None if items.anything else items)


def _container(name: str) -> Allowed | None:
    if name in _LISTS:
        return Allowed(frozenset({"list"}))
    return Allowed(frozenset({"mapping"})) if name in _MAPPINGS else None
