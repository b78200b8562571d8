"""What the target of a config node takes, read from its source without importing it.

Importing a phase brings Lightning and diffusers along, which takes longer than a user wants to wait for the
news of a misspelled key. The source says the same: names, defaults and annotations.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from diffopd.check.error import ConfigError

MAX_HOPS = 20  # imports followed from one name to its definition
SETTINGS = "settings"
"""Argument of a phase whose fields a config has among the phase's own."""
_PLAIN_BASES = {"object", "ABC", "Generic", "Protocol"}


@dataclass(frozen=True)
class Module:
    """A parsed source file.

    Attributes:
        name: Dotted name.
        path: The file.
        names: What it defines or imports by name -> the statement that does.
    """

    name: str
    path: Path
    names: Mapping[str, ast.AST]

    @property
    def package(self) -> str:
        """Dotted name that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor.

    Attributes:
        annotation: Its type as written, or None.
        module: Where it is written.
        required: Whether it has no default.
    """

    annotation: ast.expr | None
    module: Module
    required: bool


@dataclass(frozen=True)
class Target:
    """A class or function that a ``_target_`` names.

    Attributes:
        parameters: What it takes by name.
        takes_any: Whether it takes other names, too (``**kwargs``).
        constants: A class's own attributes with literal values.
        function: Whether it is a function, not a class.
    """

    parameters: Mapping[str, Parameter]
    takes_any: bool
    constants: Mapping[str, Any]
    function: bool = False


@cache
def read_target(dotted: str) -> Target | None:
    """What ``dotted`` takes, or None if its source does not say."""
    found = find(dotted)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return replace(_from_function(module, node, skip=0), function=True)
    return _from_class(module, node, 0) if isinstance(node, ast.ClassDef) else None


def constant(target: Any, name: str) -> Any:
    """A class's own or inherited attribute with a literal value; None if there is none, or no such class.

    Args:
        target: What a config names as ``_target_``.
        name: Of the attribute.
    """
    found = read_target(target) if isinstance(target, str) else None
    return found.constants.get(name) if found else None


def is_module(dotted: str) -> bool:
    """Whether ``dotted`` is a module or a package, as far as files show."""
    head, *rest = dotted.split(".")
    module = _top_module(head)
    for part in rest:
        module = _submodule(module, part) if module else None
    return module is not None and (not rest or find(dotted) is None)


def is_installed(dotted: str) -> bool:
    """Whether the package that ``dotted`` starts with can be found."""
    head = dotted.partition(".")[0]
    return bool(head) and importlib.util.find_spec(head) is not None


def innermost_module(dotted: str) -> tuple[Module, str] | None:
    """The last module on the way to ``dotted``, and the name after it; None if there is no source."""
    head, *rest = dotted.split(".")
    module = _top_module(head)
    for place, part in enumerate(rest):
        inner = _submodule(module, part) if module else None
        if module and (inner is None or place == len(rest) - 1):
            return module, part
        module = inner
    return None


def find(dotted: str, hops: int = 0) -> tuple[Module, ast.AST] | None:
    """The module and statement that define ``dotted``, imports followed."""
    head, *rest = dotted.split(".")
    module = _top_module(head)
    for place, part in enumerate(rest):
        if module is None:
            return None
        if place == len(rest) - 1 and (found := find_in(module, part, hops + 1)):
            return found
        module = _submodule(module, part)
    return None


def find_in(module: Module, name: str, hops: int = 0) -> tuple[Module, ast.AST] | None:
    """The module and statement that define ``name`` as seen in ``module``."""
    statement = module.names.get(name)
    if hops > MAX_HOPS:
        return None
    if statement is None:
        return _find_by_star(module, name, hops)
    if isinstance(statement, ast.Assign):
        return follow(module, statement.value, hops + 1) or (module, statement)
    if isinstance(statement, ast.ImportFrom):
        imported = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
        return find(f"{_source_of(statement, module)}.{imported}", hops + 1)
    return None if isinstance(statement, ast.Import) else (module, statement)


def _find_by_star(module: Module, name: str, hops: int) -> tuple[Module, ast.AST] | None:
    """The same for a name that ``from ... import *`` brings, which brings none that begins with ``_``."""
    for key, statement in module.names.items():
        if key.startswith("*") and isinstance(statement, ast.ImportFrom) and not name.startswith("_"):
            source = _source_of(statement, module)
            if source.partition(".")[0] not in sys.stdlib_module_names:
                if found := find(f"{source}.{name}", hops + 1):
                    return found
    return None


def follow(module: Module, expression: ast.expr, hops: int) -> tuple[Module, ast.AST] | None:
    """The definition a plain or dotted name refers to in ``module``."""
    if isinstance(expression, ast.Name):
        return find_in(module, expression.id, hops)
    if not isinstance(expression, ast.Attribute):
        return None
    head, _, rest = ast.unparse(expression).partition(".")
    statement = module.names.get(head)
    if not isinstance(statement, ast.Import):
        return None
    renamed = next((alias.name for alias in statement.names if alias.asname == head), head)
    return find(f"{renamed}.{rest}", hops)


def _from_class(module: Module, node: ast.ClassDef, hops: int) -> Target | None:
    if hops > MAX_HOPS:
        return None
    bases = [_base(module, base, hops) for base in node.bases if not is_plain(base)]
    inherited = [target for target in bases if target is not None]
    constants = {
        name: value for target in reversed(inherited) for name, value in target.constants.items()
    } | dict(_constants(node))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            taken = _from_function(module, statement, skip=1)
            return Target(_spread(taken.parameters), taken.takes_any, constants)
    if len(inherited) < len(bases):
        return None  # a base whose constructor cannot be read
    parameters: dict[str, Parameter] = {}
    for target in reversed(inherited):
        parameters |= target.parameters
    if _is_dataclass(node):
        parameters |= dict(_fields(module, node))
    return Target(parameters, any(target.takes_any for target in inherited), constants)


def _spread(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Parameters with a dataclass's fields in the place of one called ``settings``, as a config has them."""
    spread: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        fields = _of_dataclass(parameter) if name == SETTINGS else None
        spread |= {name: parameter} if fields is None else fields
    return spread


def _of_dataclass(parameter: Parameter) -> Mapping[str, Parameter] | None:
    """What the dataclass takes that a parameter's annotation names; None if it names none."""
    found = follow(parameter.module, parameter.annotation, 0) if parameter.annotation else None
    if found is None or not isinstance(found[1], ast.ClassDef) or not _is_dataclass(found[1]):
        return None
    target = _from_class(found[0], found[1], 0)
    return None if target is None else target.parameters


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_plain(base: ast.expr) -> bool:
    """Whether a base says nothing of what its class can do."""
    return ast.unparse(base).rpartition(".")[2].partition("[")[0] in _PLAIN_BASES


def _base(module: Module, base: ast.expr, hops: int) -> Target | None:
    found = follow(module, base, hops + 1)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    return _from_class(found[0], found[1], hops + 1)


def _from_function(module: Module, node: ast.FunctionDef, skip: int) -> Target:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = len(positional) - len(arguments.defaults)
    parameters = {
        argument.arg: Parameter(argument.annotation, module, place < without_default)
        for place, argument in enumerate(positional)
        if place >= skip
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(argument.annotation, module, default is None)
    return Target(parameters, arguments.kwarg is not None, {})


def _fields(module: Module, node: ast.ClassDef) -> Iterator[tuple[str, Parameter]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if "ClassVar" not in ast.unparse(statement.annotation):
                yield statement.target.id, Parameter(statement.annotation, module, statement.value is None)


def _constants(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if isinstance(statement.value, ast.Constant | ast.Tuple):
                with contextlib.suppress(ValueError):  # a tuple of more than words and numbers
                    yield statement.target.id, ast.literal_eval(statement.value)


def _names(tree: ast.Module) -> dict[str, ast.AST]:
    """First statement for each name of a module, those under ``if`` and ``try`` included."""
    names: dict[str, ast.AST] = {}
    waiting: deque[ast.AST] = deque(tree.body)
    while waiting:
        statement = waiting.popleft()
        given: list[str] = []
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            given = [statement.name]
        elif isinstance(statement, ast.Assign):
            given = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.ImportFrom):
            given = [alias.asname or alias.name for alias in statement.names]
            if given == ["*"]:
                given = [f"*{statement.lineno}"]
        elif isinstance(statement, ast.Import):
            given = [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
        elif isinstance(statement, (ast.If, ast.Try, ast.ExceptHandler)):
            parts = ("body", "handlers", "orelse", "finalbody")
            waiting.extend(inner for part in parts for inner in getattr(statement, part, []))
        for name in given:
            names.setdefault(name, statement)
    return names


def _source_of(statement: ast.ImportFrom, module: Module) -> str:
    """Absolute name of the module an import statement imports from."""
    if statement.level == 0:
        return statement.module or ""
    base = module.package.split(".")
    base = base[: len(base) - statement.level + 1]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _top_module(name: str) -> Module | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return _parse(name, Path(spec.origin))


def _submodule(module: Module, name: str) -> Module | None:
    if module.path.name != "__init__.py":
        return None
    for path in (module.path.parent / name / "__init__.py", module.path.parent / f"{name}.py"):
        if path.is_file():
            return _parse(f"{module.name}.{name}", path)
    return None


@cache
def _parse(name: str, path: Path) -> Module:
    try:
        return Module(name, path, _names(ast.parse(path.read_bytes())))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}; {name} cannot be imported") from error
