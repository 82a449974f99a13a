"""Every store of durable jobs, under one state machine."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.sqlite import SqliteJobStore
from tests.support.jobstore.clock import TEST_TIME, set_test_time
from tests.support.jobstore.machine import LEASE_S, JobStoreMachine
from tests.support.jobstore.redis_server import RedisServer

QUICK = settings(max_examples=50, stateful_step_count=40)
LONG = settings(max_examples=200, stateful_step_count=60)


class MemoryMachine(JobStoreMachine):
    """The memory store, which is compared with another one of it."""

    async def open_store(self) -> JobStore:
        """Open it."""
        return MemoryJobStore(lambda: self.time, LEASE_S)


class SqliteMachine(JobStoreMachine):
    """The sqlite store, in a folder of its own."""

    async def open_store(self) -> JobStore:
        """Open a new database."""
        self.folder = tempfile.TemporaryDirectory(prefix="lego-sqlite-")
        return SqliteJobStore(Path(self.folder.name) / "jobs.db", lambda: self.time, LEASE_S)

    def teardown(self) -> None:
        """Close the store and remove its folder."""
        super().teardown()
        self.folder.cleanup()


def redis_machine(server: RedisServer) -> type[JobStoreMachine]:
    """The Redis store, in a server that is emptied before."""

    class RedisMachine(JobStoreMachine):
        async def open_store(self) -> JobStore:
            self.client = connect(server.url, timeout_s=60.0)
            await self.client.flushall()
            await self.set_time()
            return RedisJobStore(self.client, LEASE_S, now_lua=TEST_TIME)

        async def set_time(self) -> None:
            await set_test_time(self.client, self.time)

    return RedisMachine


@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_an_embedded_store_does_what_its_port_says(machine: type[JobStoreMachine]) -> None:
    """Whatever gateways do in whatever order."""
    run_state_machine_as_test(machine, settings=QUICK)  # type: ignore[no-untyped-call]


def test_the_redis_store_does_what_its_port_says(redis_server: RedisServer) -> None:
    """The scripts decide as the core does."""
    run_state_machine_as_test(redis_machine(redis_server), settings=QUICK)  # type: ignore[no-untyped-call]


@pytest.mark.long
@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_an_embedded_store_does_so_in_long_runs(machine: type[JobStoreMachine]) -> None:
    """With more steps and more of them."""
    run_state_machine_as_test(machine, settings=LONG)  # type: ignore[no-untyped-call]


@pytest.mark.long
def test_the_redis_store_does_so_in_long_runs(redis_server: RedisServer) -> None:
    """With more steps and more of them."""
    run_state_machine_as_test(redis_machine(redis_server), settings=LONG)  # type: ignore[no-untyped-call]
