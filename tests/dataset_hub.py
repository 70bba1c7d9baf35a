"""A stand-in for the Hub's data sets: what `datasets.load_dataset` asks for, read off its requests."""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class DatasetServer(ThreadingHTTPServer):
    """One data set: its files by their paths, and the paths that were asked for."""

    name: str
    files: dict[str, bytes]
    requests: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class DatasetHandler(BaseHTTPRequestHandler):
    server: DatasetServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(path)
        name, files = self.server.name, self.server.files
        if found := re.fullmatch(rf"/datasets/{name}/resolve/[^/]+/(.+)", path):
            if (content := files.get(found[1])) is None:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            tag = hashlib.sha256(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        if re.fullmatch(rf"/api/datasets/{name}(/revision/.+)?", path):
            siblings = [{"rfilename": file} for file in files]
            return self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        if found := re.fullmatch(rf"/api/datasets/{name}/tree/[^/]+(?:/(.*))?", path):
            return self._json(self._tree(found[1] or ""))
        return self._json({"error": "no endpoint"}, 501)

    def _tree(self, folder: str) -> list[dict[str, object]]:
        within = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for file, content in self.server.files.items():
            if file.startswith(within):
                first, below, _ = file.removeprefix(within).partition("/")
                kind = {"type": "directory"} if below else {"type": "file", "size": len(content)}
                entries[first] = {
                    "oid": hashlib.sha1(file.encode()).hexdigest(),
                    "path": within + first,
                } | kind
        return list(entries.values())

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *values: object) -> None:
        pass
