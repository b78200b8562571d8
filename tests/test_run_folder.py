"""What a run's folder holds decides whether a run is resumed, starts anew, or is told to think again."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import diffopd
from diffopd.checkpoint import read_checkpoint, write_checkpoint
from diffopd.checkpoint.folder import INPUTS, SETTINGS, STATE, checkpoint_name
from diffopd.config.saved import CONFIG, read_config, write_config
from diffopd.files import atomic, fingerprint
from diffopd.files.fingerprint import cached_sha256_of, sha256_of
from diffopd.files.paths import expanded, resolve_path
from diffopd.files.sealed import DamagedFileError
from diffopd.run.finished import Finished, write_finished
from diffopd.run.resume import find_checkpoint, is_finished, keep_aside
from diffopd.run.settings import result_settings


def config(folder, checkpoints=None, **changes):
    """What matters here of a training's config."""
    saving = {
        "_target_": "diffopd.callbacks.RoundCheckpoint",
        "folder": "${paths.checkpoints}",
        "every_n_rounds": 2,
    }
    plain = {
        "resume": "auto",
        "seed": 0,
        "trainer": {"max_epochs": 4},
        "paths": {"run": str(folder), "checkpoints": str(checkpoints or folder / "checkpoints")},
        "callbacks": {"round_checkpoint": saving},
    }
    return OmegaConf.merge(
        plain, OmegaConf.from_dotlist([f"{key}={value}" for key, value in changes.items()])
    )


def save(cfg, place, *rounds):
    """Checkpoints of a run with this config."""
    for number in rounds:
        state = {"w": torch.ones(1), INPUTS: {}, SETTINGS: result_settings(cfg)}
        write_checkpoint(state, place / checkpoint_name(number))


@pytest.fixture
def run(tmp_path):
    """A run's folder with a config, two checkpoints, an adapter and metrics."""
    folder = tmp_path / "run"
    cfg = config(folder)
    write_config(cfg, folder)
    save(cfg, folder / "checkpoints", 2, 4)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_text("trained")
    return folder


def finish(folder, rounds=4):
    write_finished(folder, Finished(rounds=rounds, max_rounds=rounds, recipe={}, inputs={}))


# Where the checkpoints are.


def test_checkpoints_elsewhere_are_resumed_from(tmp_path):
    folder, place = tmp_path / "run", tmp_path / "fast"
    save(config(folder, place), place, 1, 2)
    assert find_checkpoint(config(folder, place), folder) == place / "round_000002"
    direct = config(folder, **{"callbacks.round_checkpoint.folder": place})
    assert find_checkpoint(direct, folder) == place / "round_000002"


def test_the_newest_is_used_where_the_run_saves_now_or_saved_before(run, tmp_path):
    place = tmp_path / "fast"
    found = find_checkpoint(config(run, place), run)
    assert (
        found == place / "round_000004"
    )  # a copy, so that the next start finds it, should this one save none
    assert read_checkpoint(found)["w"].tolist() == [1]
    assert [path.name for path in (run / "checkpoints").iterdir()].count("round_000004") == 1
    shutil.rmtree(run / "checkpoints")
    assert find_checkpoint(config(run, place), run) == found
    save(config(run), run / "checkpoints", 3)
    assert find_checkpoint(config(run), run) == run / "checkpoints" / "round_000004"


def test_a_run_that_was_moved_finds_the_checkpoints_in_its_folder(run, tmp_path):
    moved = tmp_path / "moved"
    run.rename(moved)
    save(config(run), run / "checkpoints", 1)  # of another run that has the old name now
    elsewhere = config(moved, tmp_path / "fast")
    assert find_checkpoint(elsewhere, moved).name == "round_000004"


def test_checkpoints_of_another_run_in_a_shared_place_are_an_error(tmp_path):
    place = tmp_path / "shared"
    save(config(tmp_path / "a", place), place, 2)
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  seed: 0 -> 1\n"):
        find_checkpoint(config(tmp_path / "b", place, seed=1), tmp_path / "b")
    assert [path.name for path in place.iterdir()] == ["round_000002"]


# Finished runs, fewer rounds, fresh starts.


def test_a_finished_run_without_checkpoints_is_not_trained_over_itself(run):
    finish(run)
    shutil.rmtree(run / "checkpoints")
    for cfg in (config(run), config(run, **{"trainer.max_epochs": 9})):
        with pytest.raises(
            ValueError, match=r"a run that is finished, with 4 rounds, and no checkpoint to resume"
        ):
            find_checkpoint(cfg, run)
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        find_checkpoint(config(run, seed=1), run)
    assert is_finished(config(run), run)
    assert (run / "adapter" / "weights").read_text() == "trained"


def test_a_run_whose_checkpoints_are_out_of_reach_is_not_started_anew(run):
    shutil.rmtree(run / "checkpoints")  # a disk that is not mounted, for one
    with pytest.raises(
        ValueError, match=r"a run that has exported its result and no checkpoint to resume from"
    ):
        find_checkpoint(config(run), run)
    shutil.rmtree(run / "adapter")
    (run / "metrics.csv").write_text("step,loss,epoch\n0,1,0\n1,1,1\n2,1,2\n")
    with pytest.raises(
        ValueError, match=r"a run with 3 rounds in metrics\.csv and no checkpoint to resume from"
    ):
        find_checkpoint(config(run), run)
    (run / "metrics.csv").write_text("step,loss,epoch\n0,1,0\n")  # killed before its first checkpoint
    assert find_checkpoint(config(run), run) is None


def test_an_only_checkpoint_that_cannot_be_read_now_stops_the_run(run, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("diffopd.checkpoint.folder.sha256_of", fail)
    with pytest.raises(ValueError, match=r"a run whose checkpoint .*round_000004 cannot be read"):
        find_checkpoint(config(run), run)
    monkeypatch.undo()
    assert find_checkpoint(config(run), run).name == "round_000004"


def test_a_run_whose_checkpoints_are_all_damaged_starts_anew_and_keeps_what_it_had(run, caplog):
    for name in ("round_000002", "round_000004"):
        (run / "checkpoints" / name / STATE).write_text("{}")
    assert find_checkpoint(config(run), run) is None
    assert "every checkpoint of the run" in caplog.text
    assert (run / "previous_1" / "adapter" / "weights").read_text() == "trained"
    assert sorted(os.listdir(run / "previous_1" / "checkpoints")) == ["round_000002", "round_000004"]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_fresh_start_keeps_what_was_there(run, checkpoints):
    finish(run)
    if not checkpoints:
        shutil.rmtree(run / "checkpoints")
    assert find_checkpoint(config(run, resume="never"), run) is None
    kept = sorted(os.listdir(run / "previous_1"))
    assert kept == ["adapter", *(["checkpoints"] if checkpoints else []), "config.yaml", "finished.json"]
    assert sorted(os.listdir(run)) == ["config.yaml", "previous_1"]


def test_a_fresh_start_keeps_checkpoints_elsewhere_too(tmp_path):
    folder, place = tmp_path / "run", tmp_path / "fast"
    save(config(folder, place), place, 2)
    (place / "notes").write_text("of somebody")
    assert find_checkpoint(config(folder, place, resume="never"), folder) is None
    assert sorted(os.listdir(place)) == ["notes", "previous_1"]
    assert os.listdir(place / "previous_1") == ["round_000002"]


def test_a_fresh_start_keeps_all_that_a_run_leaves(tmp_path):
    left = ("gradient_variance.json", "gradient_variance.md", "gradient_variance.png", "finished.json")
    for name in left:
        (tmp_path / name).write_text("{}")
    for name in ("non_finite", "failed_reward"):
        (tmp_path / name).mkdir()
    find_checkpoint(config(tmp_path, resume="never"), tmp_path)
    assert sorted(os.listdir(tmp_path)) == [CONFIG, "previous_1"]
    assert sorted(os.listdir(tmp_path / "previous_1")) == sorted([*left, "non_finite", "failed_reward"])


def test_previous_runs_never_share_a_folder(tmp_path):
    for name in ("previous_1", "previous_3", "previous_old"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter").mkdir()
    keep_aside(tmp_path)
    assert os.listdir(tmp_path / "previous_4") == ["adapter"]


def test_fewer_rounds_than_are_done_are_an_error(run):
    with pytest.raises(
        ValueError, match=r"trainer\.max_epochs=3, and the run in .* has 4 rounds.*=4 or more"
    ):
        find_checkpoint(config(run, **{"trainer.max_epochs": 3}), run)


# The config in the folder.


@pytest.mark.parametrize("content", [b"", b"- a\n", b"a: [", b"\0\0\0", b"\xff\xfe"])
def test_a_damaged_config_is_written_anew_by_what_the_checkpoint_knows(run, caplog, content):
    (run / CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n  seed: 0 -> 1\n"):
        find_checkpoint(config(run, seed=1), run)
    assert find_checkpoint(config(run), run).name == "round_000004"
    assert f"{CONFIG} is damaged" in caplog.text
    assert read_config(run / CONFIG).seed == 0


def test_a_damaged_config_that_nothing_can_stand_in_for_is_an_error(run):
    finish(run)
    write_checkpoint({"w": torch.ones(1)}, run / "checkpoints" / "round_000004")  # of an earlier version
    (run / CONFIG).write_bytes(b"")
    assert not is_finished(config(run), run)
    with pytest.raises(
        DamagedFileError, match=r"it is empty\. The settings .* remove the file to resume without"
    ):
        find_checkpoint(config(run), run)
    (run / CONFIG).unlink()
    assert find_checkpoint(config(run), run).name == "round_000004"


def test_a_config_is_whole_or_what_it_was(run, monkeypatch):
    before = (run / CONFIG).read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            find_checkpoint(config(run, **{"trainer.max_epochs": 8}), run)
    assert (run / CONFIG).read_bytes() == before
    assert find_checkpoint(config(run), run).name == "round_000004"


# The home folder.


@pytest.fixture
def homeless(monkeypatch):
    """A user id without an entry in the password file, and no HOME."""

    def unknown(_):
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_user_without_a_home_folder_hashes_large_files(homeless, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "LARGE", 1)
    (tmp_path / "weights").write_bytes(b"abc")
    assert cached_sha256_of(tmp_path / "weights") == sha256_of(tmp_path / "weights")


def test_a_home_folder_that_is_not_known_is_told_where_it_is_asked_for(homeless):
    for resolve in (expanded, resolve_path):
        with pytest.raises(
            ValueError, match=r"~/runs: the home folder that ~ stands for is not known .*set HOME"
        ):
            resolve("~/runs")
    assert resolve_path("runs") == "runs"


def test_no_other_code_asks_for_the_home_folder():
    asking = re.compile(r"expanduser|Path\.home\(")
    found = {path.name for path in sources() if asking.search(path.read_text())}
    assert found == {"paths.py"}


# Everything that is read back is written whole.


def sources():
    return sorted(Path(diffopd.__file__).parent.rglob("*.py"))


WRITERS = {
    "callbacks/csv_logger.py": "each row has a checksum, and the last is written over in place",
    "checkpoint/folder.py": "the files of a folder that is renamed when all are on the disk",
    "checkpoint/tensor_files.py": "some of them",
    "files/atomic.py": "the writers themselves",
    "run/lock.py": "who holds the lock, to be told",
    "jobs/launch.py": "the output of a program",
    "config/saved.py": "a config for Hydra in a temporary folder",
}
"""Files that may write otherwise, and what."""


def writes(tree):
    """Names of calls that write a file whose place is not a temporary one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, target = node.func.attr, ast.unparse(node.func.value)
        places = [target, *(ast.unparse(argument) for argument in node.args)]
        if any("temporary" in place or "aside" in place for place in places):
            continue
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in ("write_text", "write_bytes") or (
            name == "open" and any(set(m) & set("wax+") for m in modes)
        ):
            yield name
        elif (target, name) in (("OmegaConf", "save"), ("json", "dump"), ("torch", "save"), ("np", "save")):
            yield f"{target}.{name}"


def test_files_are_written_by_the_writers_that_are_atomic():
    package = Path(diffopd.__file__).parent
    found = {
        str(path.relative_to(package)): names
        for path in sources()
        if (names := list(writes(ast.parse(path.read_text()))))
    }
    assert found.keys() <= WRITERS.keys(), found
    assert "run/lock.py" in found  # so that the search is known to find


def test_the_search_for_writers_finds_them():
    code = "p.write_text(a)\np.open('w')\nio.open(p, 'ab')\nOmegaConf.save(a, p)"
    code += "\ntemporary.write_text(a)\np.open('rb')"
    assert list(writes(ast.parse(code))) == ["write_text", "open", "open", "OmegaConf.save"]
