"""A web server that gives parts of files, and breaks off where it is told to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.file_server import Handler, Server


class RangeHandler(Handler):
    """Serves parts of files, says which it was asked for, and breaks off where it is told to."""

    server: RangeServer

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.rsplit("/", 1)[-1]
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        if not path.is_file() or self.server.answers.get(name):
            return super().do_GET()
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        same = self.headers.get("If-Range", tag) == tag
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(data)
        self.wfile.write(data[start : start + cut])
        return None


class RangeServer(Server):
    asked: list[str]
    cuts: list[int]  # bytes after which the next transfers break off
    tags: bool


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
