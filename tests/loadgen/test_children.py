import os
import sys
import time
from pathlib import Path

import pytest

from loadgen.children import Child, ChildError, descendants, free_port

SERVE = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(grandchild.pid, flush=True)
try:
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
except KeyboardInterrupt:
    pass
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_child_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is ready once its URL answers, and when the block ends its children are gone too."""
    monkeypatch.setattr("loadgen.children.STOP_S", 1.0)
    port = free_port()
    log = tmp_path / "log"
    with Child([sys.executable, "-c", SERVE, str(port)], log) as child:
        assert child.wait_until_ready(f"http://127.0.0.1:{port}/", 60.0) < 60.0
        grandchild = int(log.read_text().split()[0])
        assert grandchild in descendants(os.getpid())
    deadline = time.monotonic() + 60
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(grandchild)


def test_early_end_is_told(tmp_path: Path) -> None:
    """A child that ends before it is ready is an error with its last lines."""
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with (
        Child(command, tmp_path / "log") as child,
        pytest.raises(ChildError, match=r"(?s)ended with 3.*no such model"),
    ):
        child.wait_until_ready("http://127.0.0.1:9/", 60.0)


def test_never_ready_is_told(tmp_path: Path) -> None:
    """A child that runs without answering is an error after the time allowed."""
    with (
        Child([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as child,
        pytest.raises(ChildError, match="not ready"),
    ):
        child.wait_until_ready("http://127.0.0.1:9/", 0.3)
