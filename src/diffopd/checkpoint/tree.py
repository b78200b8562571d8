"""A nested state as JSON plus named tensors, and back, without losing a bit."""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Json = Any
"""What the ``json`` module writes: None, bool, int, float, str, list, dict with string keys."""

_TAG = "$"  # one-entry objects with a key such as "$tensor" stand for what JSON has no word for


def encode_tree(tree: Any) -> tuple[Json, dict[str, Tensor]]:
    """Split a nested state into JSON and tensors.

    Dicts with any scalar or tuple keys, ``Counter``, lists, tuples, None, bools, ints, strings, and floats
    (nan, infinities and the sign of zero included) come back from :func:`decode_tree` as they were.
    ``OrderedDict`` comes back as ``dict``. Tensors that share memory come back as separate tensors.

    Args:
        tree: The state, e.g. what Lightning puts in a checkpoint.

    Returns:
        The JSON part and the tensors it refers to, detached, contiguous, sharing no memory, each
        on its device.

    Raises:
        TypeError: If the state holds anything else; the message names where.
    """
    encoder = _Encoder()
    return encoder.encode(tree, path=""), encoder.tensors


class _Encoder:
    """Walks the state; keeps the tensors found and the memory they occupy."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._storages: set[int] = set()

    def encode(self, node: Any, path: str) -> Json:
        kind = type(node)
        if node is None or kind in (bool, int, str):
            return node
        if kind is float:
            return node if math.isfinite(node) else {"$float": struct.pack(">d", node).hex()}
        if kind is list:
            return self._items(node, path)
        if kind is tuple:
            return {"$tuple": self._items(node, path)}
        if kind in (dict, OrderedDict):
            return self._mapping(node, path)
        if kind is Counter:
            return {"$counter": self._pairs(node, path)}
        if kind in (Tensor, torch.nn.Parameter) and node.layout == torch.strided and not node.is_meta:
            return {"$tensor": self._keep(node, path)}
        raise TypeError(
            f"{path or 'the state'}: a checkpoint cannot hold {kind.__module__}.{kind.__qualname__}; it "
            "holds dicts, lists, tuples, dense tensors, numbers, strings, bools and None. Convert it in the "
            "state_dict() or on_save_checkpoint() that put it there: a path to str, an array to a tensor, a "
            "config to a plain dict"
        )

    def _items(self, nodes: list[Any] | tuple[Any, ...], path: str) -> list[Json]:
        return [self.encode(node, _join(path, i)) for i, node in enumerate(nodes)]

    def _mapping(self, node: Mapping[Any, Any], path: str) -> Json:
        if all(type(key) is str and not key.startswith(_TAG) for key in node):
            return {key: self.encode(value, _join(path, key)) for key, value in node.items()}
        return {"$dict": self._pairs(node, path)}

    def _pairs(self, node: Mapping[Any, Any], path: str) -> list[Json]:
        return [
            [self.encode(key, f"{path} (key {key!r})"), self.encode(value, _join(path, key))]
            for key, value in node.items()
        ]

    def _keep(self, tensor: Tensor, path: str) -> str:
        name = path or "tensor"
        while name in self.tensors:  # keys 0 and "0" read alike in a path
            name += "'"
        dense = tensor.detach().contiguous().resolve_conj().resolve_neg()
        storage = dense.untyped_storage().data_ptr()
        if storage in self._storages:
            dense = dense.clone()
            storage = dense.untyped_storage().data_ptr()
        self._storages.add(storage)
        self.tensors[name] = dense
        return name


def decode_tree(encoded: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The state that :func:`encode_tree` split.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If the JSON holds a tag this version does not know.
    """
    if isinstance(encoded, list):
        return [decode_tree(node, tensors) for node in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if not any(key.startswith(_TAG) for key in encoded):
        return {key: decode_tree(value, tensors) for key, value in encoded.items()}
    ((tag, content),) = encoded.items()
    if tag == "$tensor":
        return tensors[content]
    if tag == "$float":
        return struct.unpack(">d", bytes.fromhex(content))[0]
    if tag == "$tuple":
        return tuple(decode_tree(node, tensors) for node in content)
    if tag in ("$dict", "$counter"):
        pairs = {decode_tree(key, tensors): decode_tree(value, tensors) for key, value in content}
        return Counter(pairs) if tag == "$counter" else pairs
    raise ValueError(f"unknown tag {tag!r}: was this checkpoint written by a newer version?")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
