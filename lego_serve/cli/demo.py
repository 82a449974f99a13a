"""``make demo``: start a server, make one image over HTTP, stop, and leave nothing behind."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from rich.console import Console

PROMPT = "a large red circle on the left and a small yellow triangle on the right, blue background"
SEED = 7
START_TIMEOUT_S = 180
out = Console()


def main() -> int:
    """Run the demonstration; answers the exit status."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "lego_serve.cli.main", "serve", "--port", str(port)]
    server = subprocess.Popen(command, start_new_session=True)
    try:
        _wait_ready(url, server)
        started = time.monotonic()
        body = {"prompt": PROMPT, "size": "128x128", "seed": SEED}
        answer = httpx2.post(f"{url}/v1/images/generations", json=body, timeout=120)
        took = time.monotonic() - started
        content = answer.json()
        if answer.status_code != 200:
            out.print(f"the server refused: {content['error']['message']}")
            return 1
        Path("demo.png").write_bytes(base64.b64decode(content["data"][0]["b64_json"]))
        out.print(f"prompt: {PROMPT}")
        for node, seconds in content["lego"]["nodes"].items():
            out.print(f"  {node:<10} {seconds:.3f} s", highlight=False)
        out.print(f"wrote demo.png in {took:.2f} s", highlight=False)
    finally:
        left = stop(server)
    if left:
        out.print(f"still running after the server stopped: {left}")
        return 1
    return 0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < limit:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            if httpx2.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {START_TIMEOUT_S} s")


def stop(server: subprocess.Popen[bytes]) -> list[int]:
    """Stop the server; answers the process ids of its that are still there a little later."""
    before = descendants(server.pid)
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
    limit = time.monotonic() + 10
    while (left := [pid for pid in before if _alive(pid)]) and time.monotonic() < limit:
        time.sleep(0.2)
    return left


def descendants(root: int) -> list[int]:
    """The processes started by a process, directly or not."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    found: list[int] = []
    frontier = [root]
    while frontier:
        frontier = [pid for pid, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
