"""A hub on this machine: the parts of its protocol that huggingface_hub uses to upload a folder."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    """One repository: its files after each commit."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]


@dataclass
class StandIn:
    """What the stand-in knows, and what it is to refuse.

    Attributes:
        tokens: Token -> its role.
        repositories: ``owner/name`` -> the repository.
        refuse: Part of a request's path -> the status that it gets.
        ignored: Files that a .gitignore of the repository names.
        requests: Method and path of all requests.
        strangers: Requests that had no known token, but for storage.
    """

    tokens: dict[str, str]
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    @property
    def writes(self) -> list[str]:
        """Requests that change something."""
        return [line for line in self.requests if re.search(r"create|/commit/|PUT", line)]


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """A hub that knows the user ``me``, member of ``team``, by the token ``hf_secret``."""
    hub = StandIn({"hf_secret": "write", "hf_reader": "read", "hf_fine": "fineGrained"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        body = json.dumps({} if value is None else value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def respond(self) -> None:
        path, method = self.path.partition("?")[0], self.command
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/agent-harnesses":  # what huggingface_hub asks for its own statistics
            return self.answer()
        self.hub.requests.append(f"{method} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not path.startswith("/storage/") and token not in self.hub.tokens:
            self.hub.strangers.append(path)
            return self.answer({"error": "Invalid credentials"}, 401)
        for part, status in self.hub.refuse.items():
            if part in path:
                return self.answer({"error": "not today"}, status)
        if path == "/api/whoami-v2":
            role = {"role": self.hub.tokens[token]}
            return self.answer({"name": "me", "orgs": [{"name": "team"}], "auth": {"accessToken": role}})
        if path == "/api/validate-yaml":
            return self.answer()
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/storage/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self.hub.stored[found[1]] = body
            return self.answer()
        if re.fullmatch(r"/[\w-]+/[\w-]+\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body))
        found = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/(\w+)/(\w+))?", path)
        if found is None:
            return self.answer({"error": "no such page"}, 404)
        name, action, _ = found.groups()
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        return {None: self.info, "preupload": self.preupload, "commit": self.commit, "tree": self.tree}[
            action
        ](name, repository, body)

    do_GET = do_POST = do_PUT = respond  # noqa: N815

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        self.answer({"url": f"{self.hub.address}/{name}"})

    def info(self, name: str, repository: Repository, body: bytes) -> None:
        siblings = [{"rfilename": file} for file in repository.files]
        self.answer({"id": name, "private": repository.private, "siblings": siblings})

    def preupload(self, name: str, repository: Repository, body: bytes) -> None:
        self.answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": file["path"] in self.hub.ignored,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def batch(self, asked: dict[str, Any]) -> None:
        def action(entry: dict[str, Any]) -> dict[str, Any]:
            return {"upload": {"href": f"{self.hub.address}/storage/{entry['oid']}"}}

        self.answer({"objects": [{**entry, "actions": action(entry)} for entry in asked["objects"]]})

    def commit(self, name: str, repository: Repository, body: bytes) -> None:
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        repository.commits.append(files)
        number = len(repository.commits)
        url = f"{self.hub.address}/{name}/commit/{number}"
        self.answer({"success": True, "commitOid": str(number), "commitUrl": url})

    def tree(self, name: str, repository: Repository, body: bytes) -> None:
        entries = repository.files.items()
        self.answer([{"type": "file", "path": file, "size": len(x), "oid": "0"} for file, x in entries])
