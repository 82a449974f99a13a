"""A real redis-server for tests, on a unix socket in a folder of its own."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

MISSING = "redis-server is not installed here; on Debian: apt-get install redis-server"
START_S = 60.0


class RedisServer:
    """A server with an append-only file, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        program = self.find_program()
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [program, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        self._command += ["--maxmemory-policy", "noeviction"]
        self.start()

    @staticmethod
    def find_program() -> str:
        """Return where redis-server is; the test is skipped where it is not."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip(MISSING)
        return program

    def start(self) -> None:
        """Start the server and wait until it has loaded its file."""
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, "redis-server ended at its start"
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.wait()

    def flush(self) -> None:
        """Forget everything."""
        with Redis(unix_socket_path=str(self.socket)) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Run one in a folder whose name is short, because the path of a unix socket must be."""
    with tempfile.TemporaryDirectory(prefix="lego-redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()
