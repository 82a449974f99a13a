"""An S3 for tests on this machine: moto's, in a process of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lego_serve.cli.demo import free_port

BUCKET = "jobs"
START_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server with one bucket."""

    endpoint: str
    url: str = f"s3://{BUCKET}/main"

    @property
    def environment(self) -> dict[str, str]:
        """What opens it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def name_in(self, setenv: Callable[[str, str], None]) -> None:
        """Have an environment name it."""
        for name, value in self.environment.items():
            setenv(name, value)

    def empty(self) -> None:
        """Forget everything but the bucket."""
        self._ask("/moto-api/reset", "POST")
        self._ask(f"/{BUCKET}", "PUT")

    def _ask(self, path: str, method: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.endpoint + path, method=method), timeout=10):
            pass


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Run one; it takes a few seconds to begin."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    server = S3Server(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError):
                server.empty()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()
