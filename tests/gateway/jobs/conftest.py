"""What tests of durable jobs share."""

from collections.abc import Iterator

import pytest

from tests.support.jobstore.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A redis-server for the tests of one file."""
    with running_redis() as server:
        yield server
