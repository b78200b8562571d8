import json
import struct
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffopd.checkpoint import decode_tree, encode_tree


def round_trip(tree):
    encoded, tensors = encode_tree(tree)
    return decode_tree(json.loads(json.dumps(encoded, allow_nan=False)), tensors)


def same(a, b) -> bool:
    """Equal with types, order of keys, and bits of floats."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, m) and same(a[k], b[m]) for k, m in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats()
keys = st.integers() | st.text() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@given(trees)
def test_plain_data_survives_bit_for_bit(tree):
    assert same(round_trip(tree), tree)


def test_special_floats_tags_and_counters():
    tree = {"$tensor": "not a tensor", "a": {"$dict": 1}, 3: Counter({4: 2}), "none": None, "empty": {}}
    back = round_trip(tree)
    assert same(back, tree)
    assert type(back[3]) is Counter
    floats = [float("nan"), float("inf"), -float("inf"), -0.0, 0.1, 5e-324]
    assert same(round_trip(floats), floats)
    assert round_trip(OrderedDict(a=1)) == {"a": 1}


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool],
)
def test_tensors_keep_dtype_shape_and_bits(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    back = round_trip({"state": {0: {"exp_avg": tensor, "step": torch.tensor(3.0)}, "0": tensor.T}})
    assert back["state"][0]["exp_avg"].dtype == dtype
    assert torch.equal(back["state"][0]["exp_avg"], tensor)
    assert torch.equal(back["state"]["0"], tensor.T)
    assert back["state"][0]["step"].shape == ()


def test_tensors_that_share_memory_are_separated():
    base = torch.arange(4.0, requires_grad=True)
    _, tensors = encode_tree({"whole": base, "part": base[:2], "again": base})
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == 3
    assert not any(t.requires_grad for t in tensors.values())
    assert tensors["part"].tolist() == [0.0, 1.0]


def test_keys_that_read_alike_do_not_collide():
    back = round_trip({0: torch.zeros(1), "0": torch.ones(1)})
    assert back[0].item() == 0
    assert back["0"].item() == 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Path("a"), "PosixPath"),
        (np.float32(1), "numpy.float32"),
        (torch.Size([1]), "torch.Size"),
        (torch.float32, "torch.dtype"),
        (print, "builtin_function_or_method"),
        (torch.eye(2).to_sparse(), "Tensor"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(value, kind):
    with pytest.raises(
        TypeError, match=rf"^callbacks\.ema\.1: a checkpoint cannot hold .*{kind}; it holds dicts"
    ):
        encode_tree({"callbacks": {"ema": [0, value]}})


def test_unknown_tag_is_an_error():
    with pytest.raises(ValueError, match=r"unknown tag '\$set'"):
        decode_tree({"$set": []}, {})
