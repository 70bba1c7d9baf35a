"""A stand-in for the Hugging Face Hub: the few endpoints that its client uses, kept in memory.

What the client sends was read off its requests; a path that is not among them is answered with 501, so that a
client that begins to use another one fails here and is not taken for working.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


@dataclass
class Repository:
    """Files of each commit, the newest last; branches and tags point to commits."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        newest = list(self.commits)[-1]
        return newest if revision == "main" else self.tags.get(revision, revision)


class HubServer(ThreadingHTTPServer):
    """Repositories by owner/name, uploaded large files by their hash, and the paths that were asked for."""

    repositories: dict[str, Repository]
    large: dict[str, bytes]
    requests: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, answer in (
            (r"/api/models/(.+)/preupload/main", self._preupload),
            (r"/(.+)\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/api/models/(.+)/commit/main", self._commit),
        ):
            if found := re.fullmatch(pattern, path):
                return answer(found[1], body)
        return self._json({"error": f"no endpoint {path}"}, 501)

    def do_PUT(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = path.removeprefix("/large/")
        assert hashlib.sha256(body).hexdigest() == digest, "the client sent other bytes than it announced"
        self.server.large[digest] = body
        self._send(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
        found = info or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found:
            return self._json({"error": "no endpoint"}, 501)
        name = found[1]
        repository = self.server.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            return self._missing("RepoNotFound", 401)
        if info:
            newest = repository.commit_of("main")
            return self._json({"id": name, "sha": newest, "private": repository.private})
        revision, file = found[2], found[3]
        commit = repository.commit_of(revision)
        if commit not in repository.commits:
            return self._missing("RevisionNotFound", 404)
        content = repository.commits[commit].get(file)
        if content is None:
            return self._missing("EntryNotFound", 404, commit)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(200, content, headers)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.server.repositories:
            return self._json({"error": "You already created this model repo", "url": name}, 409)
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        return self._json({"url": f"{self.server.url}/{name}", "id": name})

    def _preupload(self, name: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".onnx")) else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self._json({"files": modes, "commitOid": list(self.server.repositories[name].commits)[-1]})

    def _lfs_batch(self, name: str, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        upload = [
            {**item, "actions": {"upload": {"href": f"{self.server.url}/large/{item['oid']}", "header": {}}}}
            for item in objects
        ]
        self._json({"transfer": "basic", "objects": upload})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.server.repositories[name]
        files = dict(list(repository.commits.values())[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        repository.commits[commit] = files
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        return path

    def _missing(self, code: str, status: int, commit: str = "") -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit})

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *values: object) -> None:
        pass
