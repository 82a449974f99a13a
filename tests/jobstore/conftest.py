"""What tests of the stores of jobs share."""

from collections.abc import Iterator

import pytest

from tests.support.jobstore.redis_server import RedisServer, running_redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server."""
    with running_redis() as server:
        yield server
