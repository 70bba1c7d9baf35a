"""A web server of files that can be told to fail."""

from __future__ import annotations

from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Counts requests; `answers` plans the next ones of a name: "cut", "wrong" or a status."""

    requests: Counter[str]
    answers: dict[str, list[str | int]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests[name] += 1
        planned = self.server.answers.get(name)
        answer = planned.pop(0) if planned else ""
        if not answer:
            return super().do_GET()
        if isinstance(answer, int):
            return self.send_error(answer)
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:1000] if answer == "cut" else bytes(len(data)))
        return None

    def log_message(self, *values: object) -> None:
        pass
