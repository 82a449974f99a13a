"""The sockets a server listens on."""

import asyncio
import socket
from pathlib import Path

import pytest

from lego_serve.errors import ConfigError
from lego_serve.process.sockets import host_and_port, reserve, shared_socket, unix_socket


async def test_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY on what comes in, so no answer waits for a delayed acknowledgement."""
    found: list[int] = []

    def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listening = shared_socket("127.0.0.1", 0)
    server = await asyncio.start_server(came, sock=listening)
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    await reader.read()
    writer.close()
    server.close()
    assert found == [1]


def test_a_reserved_port_is_shared_with_our_own_alone() -> None:
    """Our processes bind it too; for a second server it is taken."""
    with reserve("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        shared_socket("127.0.0.1", port).close()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use"):
            reserve("127.0.0.1", port)


def test_a_port_is_free_again_as_soon_as_its_server_has_ended() -> None:
    """Though connections that it closed linger."""
    with reserve("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with shared_socket("127.0.0.1", port) as listening:
            listening.listen()
            with socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = listening.accept()
                accepted.close()  # the side that closes first lingers
                assert client.recv(1) == b""
    with reserve("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port
        shared_socket("127.0.0.1", port).close()


def test_an_ipv6_address_stands_in_brackets() -> None:
    """A URL needs them; names and IPv4 addresses stay as they are."""
    assert [host_and_port(host, 1) for host in ("::1", "127.0.0.1", "localhost")] == [
        "[::1]:1",
        "127.0.0.1:1",
        "localhost:1",
    ]


def test_a_unix_socket_lies_where_it_is_told(tmp_path: Path) -> None:
    """Its path is its address."""
    with unix_socket(tmp_path / "a.sock") as made:
        assert made.getsockname() == str(tmp_path / "a.sock")
