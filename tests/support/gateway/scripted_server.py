"""A server that answers what it is told to, so that a client meets every kind of answer."""

import http.server
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or the end of a connection in its place, or after a part of it."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """Answers each path by its script: one answer a request, the last one again and again."""

    def __init__(self) -> None:
        self.script: defaultdict[str, list[Answer]] = defaultdict(lambda: [Answer(status=404)])
        self.asked: list[Asked] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                outer._answer(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append(Asked(handler.command, handler.path, headers, body))
        script = self.script[handler.path.partition("?")[0]]
        answer = script.pop(0) if len(script) > 1 else script[0]
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        if answer.hangs_up and not content:
            handler.connection.close()
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if not answer.hangs_up:
            handler.send_header("content-length", str(len(content)))
        else:
            handler.send_header("content-length", str(len(content) + 1))
        handler.end_headers()
        handler.wfile.write(content)
