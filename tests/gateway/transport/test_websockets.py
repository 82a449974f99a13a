"""Connections that began over HTTP and go on as WebSockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets

from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.runner import FakeRunner

QUICK = {"head_timeout_s": 0.3, "body_timeout_s": 0.3, "keep_alive_s": 0.3, "connections_per_address": 3}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Served]:
    """One that has little patience, and few connections for an address."""
    settings = GatewaySettings("lego-tiny", compat=frozenset({"comfyui"}))
    async with served(FakeRunner(), settings, memory_storage(tmp_path / "jobs"), **QUICK) as gateway:
        yield gateway


def connect(gateway: Served) -> websockets.connect:
    return websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws")


async def test_a_socket_outlives_the_patience_with_requests(gateway: Served) -> None:
    """The times for heads, bodies and the next request are over for it."""
    async with connect(gateway) as connection:
        await connection.recv()
        await asyncio.sleep(1.0)
        await asyncio.wait_for(await connection.ping(), 60)


async def test_a_socket_counts_as_long_as_it_is_open(gateway: Served) -> None:
    """Among the connections of its address, and not longer."""
    for _ in range(5):
        async with connect(gateway), connect(gateway) as second:
            await second.recv()
            assert (await gateway.client.get("/system_stats")).status_code == 200
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with connect(gateway):
                    pass
            assert refused.value.response.status_code == 429
        async with asyncio.timeout(60):
            while len(gateway.server.server_state.connections) > 1:  # that of the client over HTTP is kept
                await asyncio.sleep(0.01)


async def test_a_large_message_ends_the_socket(gateway: Served) -> None:
    """A client has little to say."""
    async with connect(gateway) as connection:
        await connection.recv()
        await connection.send("x" * 100_000)
        await asyncio.wait_for(connection.wait_closed(), 60)
    assert connection.close_code == 1009


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": 5}', "\ud7ff" * 100, json.dumps({"type": "feature_flags"})])
async def test_whatever_a_client_says_is_heard(gateway: Served, text: str) -> None:
    """The socket stays open."""
    async with connect(gateway) as connection:
        await connection.recv()
        await connection.send(text)
        await connection.send(b"\0\1")
        await asyncio.wait_for(await connection.ping(), 60)


async def test_a_handshake_that_is_none_is_refused(gateway: Served) -> None:
    """With an answer over HTTP."""
    headers = {"connection": "Upgrade", "upgrade": "websocket"}
    answer = await gateway.client.get("/ws", headers=headers)
    assert 400 <= answer.status_code < 500
    assert (await gateway.client.get("/queue", headers=headers)).status_code == 200
