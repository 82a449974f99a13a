"""``make demo``: starts a server, makes one image over HTTP, stops, and leaves no process behind."""

import base64
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from rich.console import Console

from lego_serve.process.tree import descendants, is_alive

PROMPT = "a large red circle on the left and a small yellow triangle on the right, blue background"
SEED = 7
START_TIMEOUT_S = 180
out = Console()


def main() -> int:
    """Run the demonstration and return the exit status."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "lego_serve.cli.main", "serve", "--port", str(port)]
    server = subprocess.Popen(command, start_new_session=True)
    try:
        _wait_ready(url, server)
        started = time.monotonic()
        body = {"prompt": PROMPT, "size": "128x128", "seed": SEED}
        answer = httpx2.post(f"{url}/v1/images/generations", json=body, timeout=120)
        took_s = time.monotonic() - started
        content = answer.json()
        if answer.status_code != 200:
            out.print(f"the server refused: {content['error']['message']}")
            return 1
        Path("demo.png").write_bytes(base64.b64decode(content["data"][0]["b64_json"]))
        out.print(f"prompt: {PROMPT}")
        for node, seconds in content["lego"]["nodes"].items():
            out.print(f"  {node:<10} {seconds:.3f} s", highlight=False)
        out.print(f"wrote demo.png in {took_s:.2f} s", highlight=False)
    finally:
        left = stop(server)
    if left:
        out.print(f"still running after the server stopped: {left}")
        return 1
    return 0


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            if httpx2.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {START_TIMEOUT_S} s")


def stop(server: subprocess.Popen[bytes]) -> list[int]:
    """Stop the server and return the ids of those of its processes that still run 10 s later."""
    started = descendants(server.pid)
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
    deadline_s = time.monotonic() + 10
    while (left := [pid for pid in started if is_alive(pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return left


if __name__ == "__main__":
    sys.exit(main())
