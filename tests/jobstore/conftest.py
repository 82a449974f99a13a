"""What tests of the stores of jobs share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobstore.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server; its folder's name is short, because the path of a unix socket must be."""
    with tempfile.TemporaryDirectory(prefix="lego-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.stop()
