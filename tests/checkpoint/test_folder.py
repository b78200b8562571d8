import errno
import json
import logging
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffopd.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    latest_valid_checkpoint,
    read_checkpoint,
    tensor_files,
    verify_checkpoint,
    write_checkpoint,
)
from diffopd.checkpoint import folder as folder_module
from diffopd.checkpoint.folder import (
    MANIFEST,
    STATE,
    checkpoint_name,
    list_checkpoints,
    remove_checkpoint,
)
from diffopd.checkpoint.tensor_files import INDEX, TENSORS


def state(value: float):
    return {"weight": torch.full((3,), value), "empty": torch.zeros(0), "epoch": 4, "betas": (0.9, 0.999)}


def assert_state(folder, value: float):
    back = read_checkpoint(folder)
    assert back["weight"].tolist() == [value] * 3
    assert back["empty"].shape == (0,)
    assert (back["epoch"], back["betas"]) == (4, (0.9, 0.999))


def test_writes_three_files_and_nothing_beside_them(tmp_path):
    target = write_checkpoint(state(1.0), tmp_path / "run" / "round_000001")
    assert sorted(os.listdir(target)) == sorted([TENSORS, STATE, MANIFEST])
    assert os.listdir(target.parent) == ["round_000001"]
    assert_state(target, 1.0)


def with_part(folder, content=b"weights"):
    def write(part):
        part.mkdir()
        (part / "weights").write_bytes(content)

    return write_checkpoint(state(1.0), folder, {"adapter": write})


def test_a_tensor_that_a_part_holds_is_stored_there_alone(tmp_path):
    """Bit for bit under the end of its name; one that differs in a bit, a type or a shape is stored, too."""
    nan = torch.tensor([float("nan"), -0.0])
    kept = {"same.w": nan, "bits.w": torch.zeros(2), "b": torch.ones(2, dtype=torch.bfloat16), "lone": nan}
    held = {"w": nan, "b": torch.ones(2)}

    def write(part):
        part.mkdir()
        save_file(held, part / "weights.safetensors")

    checkpoint = write_checkpoint({"state": kept}, tmp_path / "round_000001", {"adapter": write})
    assert load_file(checkpoint / TENSORS).keys() == {"state.bits.w", "state.b", "state.lone"}
    assert json.loads((checkpoint / MANIFEST).read_text())["version"] == 2
    back = read_checkpoint(checkpoint)["state"]
    assert list(back) == list(kept)
    for name, value in kept.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name].view(torch.uint8), value.view(torch.uint8))

    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["files"]["adapter/weights.safetensors"]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        DamagedCheckpointError, match=r"refers to adapter/weights\.safetensors, which manifest"
    ):
        read_checkpoint(checkpoint)


def large(folder, largest_file=12, parts=None):
    """Three tensors of 8, 8 and 16 bytes; one that a part may hold; and one without values."""
    pair = {"one": torch.tensor([1.0, 2.0]), "two": torch.tensor([float("nan"), -0.0])}
    tree = {**pair, "four": torch.arange(4.0), "net.held": torch.ones(3), "empty": torch.zeros(0), "round": 7}
    return tree, write_checkpoint(tree, folder, parts, largest_file=largest_file)


def assert_same(found, tree):
    assert list(found) == list(tree)
    for name, value in tree.items():
        if name == "round":
            assert found[name] == value
        else:
            assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8))


def test_a_large_state_is_in_several_files_with_an_index(tmp_path):
    """As many as fit into a file are in one; a tensor that is too large for any has its own."""
    tree, checkpoint = large(tmp_path / "round_000001")
    files = [f"tensors-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert sorted(os.listdir(checkpoint)) == sorted([*files, INDEX, STATE, MANIFEST])
    held = [sorted(load_file(checkpoint / file)) for file in files]
    assert held == [["one"], ["two"], ["four"], ["empty", "net.held"]]
    index = json.loads((checkpoint / INDEX).read_text())
    assert index["metadata"] == {"total_size": 8 + 8 + 16 + 12}
    assert index["weight_map"] == {
        name: file for file, names in zip(files, held, strict=True) for name in names
    }
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    assert manifest["version"] == 3
    assert set(manifest["files"]) == {*files, INDEX, STATE}
    assert_same(read_checkpoint(checkpoint), tree)
    _, one = large(tmp_path / "round_000002", largest_file=44)
    assert sorted(os.listdir(one)) == sorted([TENSORS, STATE, MANIFEST])
    assert json.loads((one / MANIFEST).read_text())["version"] == 1


def test_several_files_and_a_part_hold_a_tensor_once(tmp_path):
    def write(part):
        part.mkdir()
        save_file({"held": torch.ones(3)}, part / "weights.safetensors")

    tree, checkpoint = large(tmp_path / "round_000001", parts={"adapter": write})
    assert json.loads((checkpoint / MANIFEST).read_text())["version"] == 3
    index = json.loads((checkpoint / INDEX).read_text())
    assert "net.held" not in index["weight_map"]
    assert_same(read_checkpoint(checkpoint), tree)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: flip_a_bit(c / "tensors-00002-of-00004.safetensors"), "is not what was written"),
        (lambda c: (c / "tensors-00002-of-00004.safetensors").unlink(), "is missing"),
        (lambda c: (c / INDEX).unlink(), "is missing"),
        (lambda c: flip_a_bit(c / INDEX), "is not what was written"),
        (lambda c: unname(c / MANIFEST, "tensors-00002-of-00004.safetensors"), "manifest.json does not name"),
    ],
)
def test_damage_to_one_of_several_files_is_found(tmp_path, damage, message):
    _, checkpoint = large(tmp_path / "round_000001")
    damage(checkpoint)
    with pytest.raises(DamagedCheckpointError, match=message):
        read_checkpoint(checkpoint)


def unname(manifest, name):
    """Have a manifest no longer name a file."""
    content = json.loads(manifest.read_text())
    del content["files"][name]
    manifest.write_text(json.dumps(content))


def test_a_part_is_written_with_the_rest_and_verified(tmp_path):
    checkpoint = with_part(tmp_path / "round_000001")
    assert sorted(os.listdir(checkpoint)) == sorted(["adapter", MANIFEST, STATE, TENSORS])
    verify_checkpoint(checkpoint)
    named = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert set(named) == {TENSORS, STATE, "adapter/weights"}
    assert read_checkpoint(checkpoint).keys() == state(1.0).keys()
    flip_a_bit(checkpoint / "adapter" / "weights")
    with pytest.raises(DamagedCheckpointError, match=r"adapter/weights is not what was written"):
        verify_checkpoint(checkpoint)
    (checkpoint / "adapter" / "weights").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"adapter/weights is missing"):
        verify_checkpoint(checkpoint)


def test_a_part_that_cannot_be_written_leaves_the_old_checkpoint(tmp_path):
    target = with_part(tmp_path / "round_000001", b"old")

    def fail(part):
        part.mkdir()
        (part / "weights").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(state(2.0), target, {"adapter": fail})
    assert os.listdir(tmp_path) == ["round_000001"]
    verify_checkpoint(target)
    assert (target / "adapter" / "weights").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "adapter/../../outside", "a\0b"])
def test_a_manifest_names_files_of_its_checkpoint_alone(tmp_path, name):
    checkpoint = with_part(tmp_path / "round_000001")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpointError):
        verify_checkpoint(checkpoint)


def test_rewriting_replaces(tmp_path):
    target = tmp_path / "round_000001"
    write_checkpoint(state(1.0), target)
    write_checkpoint(state(2.0), target)
    assert_state(target, 2.0)
    assert os.listdir(tmp_path) == ["round_000001"]


@pytest.mark.parametrize("failing", ["save_file", "_fingerprint", "flush"])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, failing):
    target = tmp_path / "round_000001"
    write_checkpoint(state(1.0), target)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files if failing == "save_file" else folder_module, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(state(2.0), target)
    assert_state(target, 1.0)
    assert list_checkpoints(tmp_path) == [target]
    write_checkpoint(state(3.0), target)  # what the failed write left is cleared away
    assert os.listdir(tmp_path) == ["round_000001"]


def test_everything_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    events = []
    flush, rename = folder_module.flush, os.rename
    monkeypatch.setattr(folder_module, "flush", lambda p: (events.append(("flush", p.name)), flush(p)))
    monkeypatch.setattr(
        folder_module.os, "rename", lambda a, b: (events.append(("rename", b.name)), rename(a, b))
    )
    write_checkpoint(state(1.0), tmp_path / "round_000001")
    at = events.index(("rename", "round_000001"))
    assert {name for _, name in events[:at]} == {TENSORS, STATE, MANIFEST, ".round_000001.writing"}
    assert events[at + 1 :] == [("flush", tmp_path.name)]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "flipped bit": (lambda c: flip_a_bit(c / TENSORS), "is not what was written"),
    "edited state": (lambda c: flip_a_bit(c / STATE), "is not what was written"),
    "truncated": (lambda c: (c / TENSORS).write_bytes(b""), "is not what was written"),
    "no tensors": (lambda c: (c / TENSORS).unlink(), "is missing"),
    "no manifest": (lambda c: (c / MANIFEST).unlink(), "cannot be read"),
    "torn manifest": (lambda c: (c / MANIFEST).write_text('{"version": 1'), "cannot be read"),
    "newer": (lambda c: (c / MANIFEST).write_text('{"version": 9, "files": {}}'), "has format 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_the_latest_intact_checkpoint_is_used(tmp_path, caplog, damage):
    for n in (9, 10, 11):
        write_checkpoint(state(float(n)), tmp_path / checkpoint_name(n))
    apply, message = DAMAGES[damage]
    apply(tmp_path / "round_000011")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "round_000011")
    with caplog.at_level(logging.WARNING):
        assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_000010"
    newer = damage == "newer"
    assert (
        "skipping a checkpoint, which is kept" if newer else "skipping a damaged checkpoint"
    ) in caplog.text
    assert "round_000011" in caplog.text


def test_latest_goes_by_number_and_ignores_strangers(tmp_path):
    assert latest_valid_checkpoint(tmp_path / "absent") is None
    assert latest_valid_checkpoint(tmp_path) is None
    write_checkpoint(state(1.0), tmp_path / "round_999999")
    write_checkpoint(state(2.0), tmp_path / "round_1000000")
    (tmp_path / "round_final").mkdir()
    (tmp_path / ".round_1000001.writing").mkdir()
    assert latest_valid_checkpoint(tmp_path) == tmp_path / "round_1000000"


def test_absent_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*a checkpoint is a folder with"):
        read_checkpoint(tmp_path / "round_000001")
    remove_checkpoint(tmp_path / "round_000001")


def test_remove(tmp_path):
    remove_checkpoint(write_checkpoint(state(1.0), tmp_path / "round_000001"))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_no_part_of_what_it_could_not_hold(tmp_path, monkeypatch):
    target = write_checkpoint(state(1.0), tmp_path / "round_000001")

    def fail(tensors, path, header):
        path.write_bytes(b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(state(2.0), tmp_path / "round_000002")
    assert os.listdir(tmp_path) == ["round_000001"]
    assert latest_valid_checkpoint(tmp_path) == target
    assert_state(target, 1.0)
