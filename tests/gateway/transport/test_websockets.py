"""Connections that began over HTTP and go on as WebSockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets

from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.websockets import MAX_PARTS, GatewayWebSocket
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.runner import FakeRunner

QUICK = {"head_timeout_s": 0.3, "body_timeout_s": 0.3, "keep_alive_s": 0.3, "connections_per_address": 3}

PING = b"\x89\xfd\0\0\0\0" + b"p" * 125  # with a mask of zeroes, as a client sends it
EMPTY_TEXT, EMPTY_PART = b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MANY = 500_000  # pings, which are more than the system's own buffers hold


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


async def upgraded(port: int) -> socket.socket:
    """A socket of a client that has opened a WebSocket, has read its first message, and has little room for more."""
    loop, client = asyncio.get_running_loop(), socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, UPGRADE)
    answer = b""
    while b"status" not in answer:
        answer += await loop.sock_recv(client, 4096)
    return client


def sockets_of(gateway: Served) -> list[GatewayWebSocket]:
    """The server's side of the WebSockets that are open."""
    return [each for each in gateway.server.server_state.connections if isinstance(each, GatewayWebSocket)]


async def test_pings_of_a_client_that_reads_nothing_are_left_unread(tmp_path: Path) -> None:
    """They fill no memory: soon nothing more is taken from it, and after the time to read in it is ended."""
    settings = GatewaySettings("lego-tiny", compat=frozenset({"comfyui"}))
    storage = memory_storage(tmp_path / "jobs")
    async with served(FakeRunner(), settings, storage, write_timeout_s=3.0) as gateway:
        with await upgraded(gateway.port) as client:
            [there] = sockets_of(gateway)
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(client, PING * MANY))
            most = 0
            async with asyncio.timeout(60):
                while sockets_of(gateway):
                    most = max(most, there.transport.get_write_buffer_size())
                    await asyncio.sleep(0.01)
            assert 0 < most < 2**20
            with pytest.raises(ConnectionError):  # it was not taken whole
                await sending


async def test_a_client_that_reads_late_gets_all_and_is_read_on(tmp_path: Path) -> None:
    """Every pong comes, and so does that of a ping after them."""
    settings = GatewaySettings("lego-tiny", compat=frozenset({"comfyui"}))
    async with served(FakeRunner(), settings, memory_storage(tmp_path / "jobs"), write_timeout_s=60.0) as gateway:
        loop, count = asyncio.get_running_loop(), 0
        with await upgraded(gateway.port) as client:
            [there] = sockets_of(gateway)
            while there.writable.is_set():
                await loop.sock_sendall(client, PING * 100)
                count += 100
                await asyncio.sleep(0)
            found = 0
            async with asyncio.timeout(60):
                while found < 127 * count:
                    found += len(await loop.sock_recv(client, 2**20))
                while not there.writable.is_set():
                    await asyncio.sleep(0.01)
                await loop.sock_sendall(client, PING)
                while found < 127 * (count + 1):
                    found += len(await loop.sock_recv(client, 4096))


async def test_a_message_of_very_many_empty_parts_ends_the_socket(gateway: Served) -> None:
    """Each counts for nothing in its size, and would be kept."""
    loop = asyncio.get_running_loop()
    with await upgraded(gateway.port) as client:
        await loop.sock_sendall(client, EMPTY_TEXT + EMPTY_PART * (MAX_PARTS + 1))
        answer = b""
        async with asyncio.timeout(60):
            while part := await loop.sock_recv(client, 4096):
                answer += part
    assert (1009).to_bytes(2) in answer
