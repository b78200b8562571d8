"""An export on the hub: one commit with card, license and samples, or nothing; against a hub of our own."""

from __future__ import annotations

import os
import subprocess
import sys

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http
from hydra import compose, initialize_config_dir

from diffopd.config.folder import config_folder
from diffopd.export import __main__ as command
from diffopd.export.hub import check_hub, push
from diffopd.weights import hub as weights_hub
from support.hub_stand_in import Repository, stand_in

# Of huggingface_hub itself, where it sends a large file to storage.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
TOKEN = "hf_secret"
TEACHER = "adapter_path=package://assets/teachers/ocr"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in that huggingface_hub of this process takes for the hub, with a token for it."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(weights_hub, "_reached", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol for the large files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with stand_in() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        yield running
    huggingface_hub.set_client_factory(_http.default_client_factory)


@pytest.fixture
def folder(tmp_path):
    """A finished export."""
    made = tmp_path / "export"
    made.mkdir()
    (made / "README.md").write_text("---\nlibrary_name: peft\n---\n# one\n")
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    (made / "samples.png").write_bytes(b"a picture")
    (made / "transformer").mkdir()
    (made / "transformer" / "config.json").write_text("{}")
    return made


def exported(*overrides):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        command.run(compose("export", overrides=["device=cpu", "format=peft", *overrides]))


def test_all_files_arrive_in_one_commit_of_a_private_repository(hub, folder):
    address = push(folder, "me/student", private=True)
    repository = hub.repositories["me/student"]
    assert repository.private
    assert len(repository.commits) == 2  # the one that it is made with, and ours
    names = {"README.md", "adapter_model.safetensors", "samples.png", "transformer/config.json"}
    assert {name: repository.files[name] for name in names} == {
        name: (folder / name).read_bytes() for name in names
    }
    assert address == f"{hub.address}/me/student/commit/2"
    assert hub.strangers == []


def test_a_team_and_a_public_repository(hub, folder):
    push(folder, "team/student", private=False)
    assert not hub.repositories["team/student"].private


def test_an_export_replaces_its_own_files_and_no_others(hub, folder):
    push(folder, "me/student", private=True)
    (folder / "adapter_model.safetensors").write_bytes(b"better weights")
    push(folder, "me/student", private=True)
    assert hub.repositories["me/student"].files["adapter_model.safetensors"] == b"better weights"
    hub.repositories["me/other"] = Repository(private=True, commits=[{"model.ckpt": b"", "a": b""}])
    with pytest.raises(
        ValueError, match=r"^push_to_hub=me/other: the repository holds a, model\.ckpt, which"
    ):
        push(folder, "me/other", private=True)


@pytest.mark.parametrize(
    ("change", "repository", "message"),
    [
        ({}, "student", "must be owner/name"),
        ({}, "me/a b", "must be owner/name: Repo id must"),
        ({}, "you/student", "the token is of me, who writes to me, team and not to you"),
        ({"HF_TOKEN": "hf_reader"}, "me/student", "the token may only read; make one with the role write"),
        ({"HF_TOKEN": "hf_expired"}, "me/student", "does not accept the token; log in again with `hf auth"),
        ({"HF_TOKEN": ""}, "me/student", "no token of the hub is known; log in with `hf auth login`, or set"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_any_work(hub, monkeypatch, change, repository, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^push_to_hub={repository}.*{message}") as refused:
        check_hub(repository, private=True)
    assert TOKEN not in str(refused.value)
    assert hub.writes == []


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        check_hub("me/student", private=True)
    assert hub.requests == []


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"^push_to_hub=me/student: the hub cannot be reached at http://127"):
        check_hub("me/student", private=True)


def test_a_token_with_rights_of_its_own_is_asked_by_trying(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    check_hub("you/student", private=True)  # its rights are the hub's to know
    hub.refuse["/api/repos/create"] = 403
    with pytest.raises(ValueError, match="nothing was uploaded, the token may not write there"):
        push(folder, "you/student", private=True)


def test_private_files_do_not_go_to_a_public_repository(hub):
    hub.repositories["me/student"] = Repository(private=False)
    with pytest.raises(ValueError, match="the repository is there and public; set hub_private=false if"):
        check_hub("me/student", private=True)
    check_hub("me/student", private=False)


@pytest.mark.parametrize("part", ["/storage/", "/commit/", "/preupload/", "/batch"])
def test_an_upload_that_breaks_leaves_nothing(hub, folder, part):
    hub.refuse[part] = 400
    with pytest.raises(ValueError, match=r"^push_to_hub=me/student: nothing was uploaded, "):
        push(folder, "me/student", private=True)
    assert list(hub.repositories["me/student"].files) == [".gitattributes"]


def test_a_file_that_the_hub_leaves_out_is_told(hub, folder):
    hub.ignored.add("samples.png")
    with pytest.raises(ValueError, match=r"commit/2 lacks samples\.png; does a \.gitignore"):
        push(folder, "me/student", private=True)


def test_a_folder_without_a_card_is_no_export(hub, tmp_path):
    with pytest.raises(ValueError, match=r"holds no README\.md; give the folder that an export made"):
        push(tmp_path, "me/student", private=True)
    assert hub.requests == []


def test_an_export_and_its_card(hub, tmp_path, capsys):
    to = tmp_path / "x"
    public = ("license=apache-2.0", "hub_private=false")
    exported(TEACHER, f"to={to}", "push_to_hub=me/student", *public)
    files = hub.repositories["me/student"].files
    assert files.keys() - {".gitattributes"} == {file.name for file in to.iterdir()}
    _, front, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert "`apache-2.0`, as stated by who exported them. These weights derive from `mini_sd3`" in text
    assert f"pushed: {hub.address}/me/student/commit/2\n" in capsys.readouterr().out


def test_the_license_of_the_base_goes_along(tmp_path):
    import shutil

    from diffopd.files.paths import resolve_path

    base = tmp_path / "base"
    shutil.copytree(resolve_path("package://assets/mini_sd3"), base)
    (base / "LICENSE.md").write_text("You may.")
    exported(TEACHER, f"model.path={base}", f"to={tmp_path / 'x'}")
    assert (tmp_path / "x" / "LICENSE.md").read_text() == "You may."
    assert "from `base` (its license: `LICENSE.md`)." in (tmp_path / "x" / "README.md").read_text()


def test_public_weights_need_a_license(hub, tmp_path):
    with pytest.raises(ValueError, match=r"hub_private=false needs license=\.\.\.: whoever finds"):
        exported(TEACHER, f"to={tmp_path / 'x'}", "push_to_hub=me/student", "hub_private=false")
    assert hub.requests == []


def test_an_export_stays_where_only_its_upload_fails(hub, tmp_path):
    hub.refuse["/commit/"] = 403
    to = tmp_path / "x"
    with pytest.raises(ValueError, match=f"complete; later: hf upload me/student {to} . --private$"):
        exported(TEACHER, f"to={to}", "push_to_hub=me/student")
    assert (to / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_tells_no_token(hub, tmp_path):
    """As users call it, the hub's address in the environment; the token is nowhere afterwards."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    environment |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    arguments = [TEACHER.replace("adapter_path", "adapter"), "format=peft", "to=x", "device=cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "diffopd.export", *arguments, "push_to_hub=me/student"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"pushed: {hub.address}/me/student/commit/2" in result.stdout
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    told = [result.stdout.encode(), result.stderr.encode(), *hub.repositories["me/student"].files.values()]
    assert not [text for text in (*written, *told) if TOKEN.encode() in text]
