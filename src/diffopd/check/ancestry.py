"""What a class derives from and what it has, read from its source without importing it."""

from __future__ import annotations

import ast
import builtins
import sys
from functools import cache

from diffopd.check.source import MAX_HOPS, Module, find, follow, is_plain


@cache
def ancestors(dotted: str) -> frozenset[str] | None:
    """A class and all it derives from, by full name; None for what is no class or cannot all be read."""
    classes = _classes(dotted)
    return None if classes is None else frozenset(f"{module.name}.{node.name}" for module, node in classes)


@cache
def members(dotted: str) -> frozenset[str] | None:
    """Methods and attributes that a class or one of its bases states; None as for :func:`ancestors`."""
    classes = _classes(dotted)
    if classes is None:
        return None
    found: set[str] = set()
    for _, node in classes:
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(statement.name)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found.add(statement.target.id)
            elif isinstance(statement, ast.Assign):
                found |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _classes(dotted: str) -> list[tuple[Module, ast.ClassDef]] | None:
    """A class and its bases, those of Python's own left out."""
    found = find(dotted)
    waiting, classes = [found], list[tuple[Module, ast.ClassDef]]()
    while waiting:
        place = waiting.pop()
        if place is None or not isinstance(place[1], ast.ClassDef) or len(classes) > MAX_HOPS:
            return None
        module, node = place[0], place[1]
        classes.append((module, node))
        for base in node.bases:
            if not is_plain(base) and not _is_pythons(module, base):
                plain = base.value if isinstance(base, ast.Subscript) else base
                waiting.append(follow(module, plain, 1))
    return classes


def _is_pythons(module: Module, base: ast.expr) -> bool:
    """Whether a base comes from Python's library, which no interface of ours does."""
    head = ast.unparse(base).partition(".")[0].partition("[")[0]
    statement = module.names.get(head)
    if statement is None:
        return hasattr(builtins, head)
    if isinstance(statement, ast.ImportFrom):
        return statement.level == 0 and (statement.module or "").partition(".")[0] in sys.stdlib_module_names
    return isinstance(statement, ast.Import) and head in sys.stdlib_module_names
