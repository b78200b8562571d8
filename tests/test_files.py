from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import diffopd
from diffopd.files.atomic import (
    atomic_save_safetensors,
    atomic_write_json,
    give_usual_mode,
    is_full_disk,
    new_folder,
    replacing,
    replacing_folder,
)
from diffopd.files.fingerprint import sha256_of
from diffopd.files.paths import resolve_path


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    atomic_write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="half way"):
        write_half(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def write_half_of(path):
    with new_folder(path) as folder:
        (folder / "file").write_text("half")
        raise RuntimeError("half way")


def test_a_new_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "deep" / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("all")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "inner" / "file").read_text() == "all"
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["new"]
    assert (tmp_path / "deep" / "new").stat().st_mode == (tmp_path / "deep").stat().st_mode


def test_a_new_folder_that_fails_leaves_nothing_and_replaces_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"):
        write_half_of(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists already; remove it"):
        write_half_of(tmp_path / "there")


def write_half_a_folder(path):
    with replacing_folder(path) as temporary:
        (temporary / "second").write_text("2")
        raise RuntimeError("half way")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    place = tmp_path / "pipeline"
    with replacing_folder(place) as temporary:
        (temporary / "first").write_text("1")
    with pytest.raises(RuntimeError, match="half way"):
        write_half_a_folder(place)
    assert [path.name for path in place.iterdir()] == ["first"]
    with replacing_folder(place) as temporary:
        (temporary / "third").write_text("3")
    assert [path.name for path in place.iterdir()] == ["third"]
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    place, rename = tmp_path / "pipeline", Path.rename
    with replacing_folder(place) as temporary:
        (temporary / "first").write_text("1")

    def fails_for_the_new_one(path, target):
        if path.suffix == ".writing":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="no"), replacing_folder(place):
        pass
    assert list(tmp_path.iterdir()) == [place]
    assert [path.name for path in place.iterdir()] == ["first"]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(tmp_path / "value.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    atomic_save_safetensors(path, {"w": torch.arange(6.0).reshape(2, 3).T}, {"note": "hello"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "hello"}
        assert file.get_tensor("w").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert path.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o666


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


def test_package_paths_lie_in_the_installed_package():
    assert diffopd.__file__ is not None
    assert Path(resolve_path("package://types.py")) == Path(diffopd.__file__).parent / "types.py"
    assert (
        resolve_path("stabilityai/stable-diffusion-3.5-medium") == "stabilityai/stable-diffusion-3.5-medium"
    )
    assert resolve_path("~/x") == str(Path.home() / "x")


def test_a_full_disk_is_told_from_other_mishaps():
    assert is_full_disk(OSError(errno.ENOSPC, "No space left on device"))
    assert is_full_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert is_full_disk(SafetensorError(words))
    assert not is_full_disk(SafetensorError("Error while serializing: I/O error: File too large"))
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))
    assert not is_full_disk(RuntimeError(words))


def test_folders_that_others_wrote_get_the_usual_permissions(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "private.safetensors")  # through a private temporary file
    (tmp_path / "usual").write_text("")
    (tmp_path / "link").symlink_to("absent")
    give_usual_mode(tmp_path)
    assert (tmp_path / "private.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
