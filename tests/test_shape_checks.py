"""The tests run under shape checks wherever the code names shapes."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest
import torch

import diffopd
from diffopd.files.png import to_picture

SOURCE = Path(diffopd.__file__).parent


def test_every_module_that_names_shapes_is_checked(request):
    checked = tuple(f"{name}." for name in request.config.getoption("jaxtyping_packages").split(","))
    modules = {
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        for file in SOURCE.rglob("*.py")
        if "jaxtyping" in file.read_text(encoding="utf-8")
    }
    assert len(modules) > 50
    assert [name for name in sorted(modules) if not f"{name}.".startswith(checked)] == []


def test_a_wrong_shape_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="to_picture"):
        to_picture(torch.zeros(2, 3, 4, 4))
