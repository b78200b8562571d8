"""Why nothing can be built from a ``_target_``, as far as its source shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from diffopd.check.error import did_you_mean
from diffopd.check.source import Module, innermost_module, is_installed
from diffopd.config.renamed import current_name


def why_absent(dotted: str) -> str | None:
    """Why ``dotted`` names nothing, or None if its source does not say so for certain."""
    head, _, rest = dotted.partition(".")
    if not is_installed(dotted):
        own = [file.stem for file in Path.cwd().glob("*.py")]
        return f"{head} is not installed, nor a module in the working directory{did_you_mean(head, own)}"
    if not rest:
        return f"{head} is a module; name a class in it, as {head}.MyClass"
    found = innermost_module(dotted)
    if found is None or (head != "diffopd" and _may_define(*found)):
        return None
    if (now := current_name(dotted)) != dotted:
        return f"it is called {now} now"
    module, name = found
    return f"there is no {name} in {module.name}{did_you_mean(name, _names_in(module), f'{module.name}.')}"


def _may_define(module: Module, name: str) -> bool:
    """Whether a module may have a name by other means than those that are read from its source."""
    text = module.path.read_text(encoding="utf-8", errors="replace")
    return re.search(rf"\b{re.escape(name)}\b|import \*|__getattr__", text) is not None


def _names_in(module: Module) -> Iterator[str]:
    yield from module.names
    if module.path.name == "__init__.py":
        yield from (entry.stem for entry in module.path.parent.iterdir())
