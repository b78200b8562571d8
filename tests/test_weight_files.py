"""Which files of weights are read: what an index names, whole, floating-point, in safetensors."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from diffopd.weights.files import DIFFUSERS, TRANSFORMERS, check_weight_files, weight_files

WHERE = "model.path=x: transformer"


def write_index(folder, layout, weight_map):
    (folder / layout.index).write_text(json.dumps({"weight_map": weight_map}))


def message(folder, layout):
    with pytest.raises(ValueError, match=re.escape(WHERE)) as refused:
        check_weight_files(weight_files(folder, layout, WHERE), WHERE)
    return str(refused.value)


@pytest.fixture(params=[DIFFUSERS, TRANSFORMERS], ids=["diffusers", "transformers"])
def layout(request):
    return request.param


@pytest.fixture
def sharded(tmp_path, layout):
    """Two shards and their index."""
    names = [f"{layout.stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for number, name in enumerate(names):
        save_file({f"block{number}.weight": torch.ones(2)}, tmp_path / name)
    write_index(tmp_path, layout, {f"block{number}.weight": name for number, name in enumerate(names)})
    return tmp_path, names


def test_shards_are_what_the_index_names(sharded, layout):
    folder, names = sharded
    save_file({"decoy": torch.ones(1)}, folder / "decoy.safetensors")
    found = weight_files(folder, layout, WHERE)
    check_weight_files(found, WHERE)
    assert [file.name for file in found] == names


def test_of_an_index_and_a_single_file_each_library_has_its_own_choice(tmp_path):
    for layout in (DIFFUSERS, TRANSFORMERS):
        save_file({"a": torch.ones(1)}, tmp_path / layout.single)
        save_file({"a": torch.ones(1)}, tmp_path / f"{layout.stem}-00001-of-00001.safetensors")
        write_index(tmp_path, layout, {"a": f"{layout.stem}-00001-of-00001.safetensors"})
    assert [f.name for f in weight_files(tmp_path, DIFFUSERS, WHERE)] == [
        "diffusion_pytorch_model-00001-of-00001.safetensors"
    ]
    assert [f.name for f in weight_files(tmp_path, TRANSFORMERS, WHERE)] == ["model.safetensors"]


def test_an_index_that_names_another_format_is_an_error_whatever_lies_beside_it(tmp_path, layout):
    save_file({"a.weight": torch.ones(1)}, tmp_path / "decoy.safetensors")
    (tmp_path / "weights.bin").write_bytes(b"a pickle")
    write_index(tmp_path, layout, {"a.weight": "weights.bin"})
    assert f"{layout.index} names weights.bin, which is no .safetensors file" in message(tmp_path, layout)


def test_a_shard_that_is_missing_is_named(sharded, layout):
    folder, names = sharded
    (folder / names[1]).unlink()
    assert f"transformer/{names[1]} is missing: {layout.index} names 2 files, 1 are there" in message(
        folder, layout
    )


def test_a_shard_that_lacks_a_tensor_or_repeats_one(sharded, layout):
    folder, names = sharded
    save_file({"other": torch.ones(2)}, folder / names[1])
    assert f"{names[1]} lacks tensor block1.weight" in message(folder, layout)
    save_file({"block1.weight": torch.ones(2), "block0.weight": torch.ones(2)}, folder / names[1])
    assert f"tensor block0.weight is both in {names[0]} and in {names[1]}" in message(folder, layout)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold settings by name"),
        ('{"weight_map": {}}', "must have a weight_map"),
        ('{"weight_map": {"a": 3}}', "must have a weight_map"),
        ('{"weight_map": {"a": "../other/a.safetensors"}}', "is in another folder"),
    ],
)
def test_an_index_that_says_nothing_usable(tmp_path, layout, text, expected):
    (tmp_path / layout.index).write_text(text)
    assert expected in message(tmp_path, layout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{stem}.fp16.safetensors", "only the variant {stem}.fp16.safetensors"),
        ("{stem}.safetensors.index.fp16.json", "only the variant {stem}.safetensors.index.fp16.json"),
        ("{stem}.bin", "{stem}.bin is a pickle, which can run code"),
        ("other.safetensors", "other.safetensors is there, but no {stem}.safetensors.index.json"),
        (None, "is missing; fetch or copy the folder again"),
    ],
)
def test_weights_that_are_missing_and_what_is_there_instead(tmp_path, layout, name, expected):
    if name is not None:
        (tmp_path / name.format(stem=layout.stem)).write_bytes(b"")
    found = message(tmp_path, layout)
    assert found.startswith(f"{WHERE}/{layout.single} is missing")
    assert expected.format(stem=layout.stem) in found


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_quantised_weights(tmp_path, layout, dtype):
    tensors = {"good.weight": torch.ones(2), "odd.weight": torch.ones(2).to(dtype)}
    save_file(tensors, tmp_path / layout.single)
    assert "tensor odd.weight has the type" in message(tmp_path, layout)


def test_whole_numbers_that_are_no_weights_are_usual(tmp_path, layout):
    tensors = {"position_ids": torch.arange(4), "bn.num_batches_tracked": torch.tensor(1), "a": torch.ones(1)}
    save_file(tensors, tmp_path / layout.single)
    check_weight_files(weight_files(tmp_path, layout, WHERE), WHERE)
