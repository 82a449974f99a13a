"""Connections to receivers go to addresses that were checked, and to no other."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from httpcore2 import AnyIOBackend, AsyncNetworkStream, ConnectError

from lego_serve.core.durable_jobs.receivers import ReceiverRefused, ReceiverRules
from lego_serve.webhooks.client import CheckedBackend, WebhookClient, look_up
from tests.support.webhooks.certificates import certificate_of
from tests.support.webhooks.receiver import receiving

PRIVATE = ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1"]


class Names:
    """A name server whose answers change with every question; it counts them."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = answers, 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_with_a_private_address_is_refused(address: str) -> None:
    """Also where it has a public one as well, and before any connection."""
    for addresses in ([address], ["8.8.8.8", address]):
        names = Names(addresses)
        with pytest.raises(ReceiverRefused):
            await CheckedBackend(ReceiverRules(), names).connect_tcp("hooks.example", 80)
        assert names.asked == 1


async def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for once a connection; what was checked is what is connected to."""
    tried = []

    async def note(self: AnyIOBackend, host: str, *_: object) -> AsyncNetworkStream:
        tried.append(host)
        raise ConnectError("no network in this test")

    monkeypatch.setattr(AnyIOBackend, "connect_tcp", note)
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    client = WebhookClient(ReceiverRules(), 5.0, names)
    with pytest.raises(ConnectError):
        await client.post("http://hooks.example/", {}, b"{}")
    assert (names.asked, tried) == (1, ["8.8.8.8"])
    with pytest.raises(ReceiverRefused):
        await client.post("http://hooks.example/", {}, b"{}")
    assert (names.asked, tried) == (2, ["8.8.8.8"])
    await client.close()


async def test_each_message_asks_again() -> None:
    """No connection is kept, so that an address checked earlier is not used for a name that has moved."""
    async with receiving() as receiver:
        names = Names(["127.0.0.1"])
        client = WebhookClient(ReceiverRules(frozenset({f"hooks.example:{receiver.port}"})), 5.0, names)
        for _ in range(2):
            assert await client.post(f"http://hooks.example:{receiver.port}/", {}, b"{}") == 204
        assert (names.asked, receiver.connections) == (2, 2)
        assert receiver.got[0].headers["host"] == f"hooks.example:{receiver.port}"
        await client.close()


async def test_the_next_address_is_tried_where_one_is_dead() -> None:
    """A host with two addresses is reached while one of its machines is down."""
    async with receiving() as receiver:
        with socket.socket(socket.AF_INET) as unused:
            unused.bind(("127.0.0.2", receiver.port))  # bound and not listening: refuses
            names = Names(["127.0.0.2", "127.0.0.1"])
            client = WebhookClient(ReceiverRules(frozenset({f"pair:{receiver.port}"})), 5.0, names)
            assert await client.post(f"http://pair:{receiver.port}/", {}, b"{}") == 204
            await client.close()


async def test_a_certificate_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the connection goes to an address."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = certificate_of("hooks.example", tmp_path)
    server.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with receiving(tls=server) as receiver:
        known = frozenset(f"{host}:{receiver.port}" for host in ("hooks.example", "other.example"))
        client = WebhookClient(ReceiverRules(known), 5.0, Names(["127.0.0.1"]))
        assert await client.post(f"https://hooks.example:{receiver.port}/", {}, b"{}") == 204
        with pytest.raises(ConnectError):
            await client.post(f"https://other.example:{receiver.port}/", {}, b"{}")
        assert len(receiver.got) == 1
        await client.close()


async def test_an_endless_answer_is_not_read() -> None:
    """The status is all that counts, and the connection is closed upon it."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            closed.set()
        finally:
            writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = WebhookClient(ReceiverRules(frozenset({f"127.0.0.1:{port}"})), 5.0)
    assert await client.post(f"http://127.0.0.1:{port}/", {}, b"{}") == 200
    await asyncio.wait_for(closed.wait(), 60)
    await client.close()
    server.close()


async def test_answers_that_drip_have_the_same_bound() -> None:
    """A receiver that sends a letter now and then is left when its time is over."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for letter in b"HTTP/1.1 200 OK" * 100:
            try:
                writer.write(bytes([letter]))
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = WebhookClient(ReceiverRules(frozenset({f"127.0.0.1:{port}"})), 0.15)
    with pytest.raises(TimeoutError):
        await client.post(f"http://127.0.0.1:{port}/", {}, b"{}")
    await client.close()
    server.close()


async def test_a_look_up_tells_addresses_or_raises() -> None:
    """Each address once; a name of nobody's is an error of the operating system."""
    assert await look_up("127.0.0.1", 80) == ["127.0.0.1"]
    with pytest.raises((OSError, UnicodeError)):
        await look_up("no-such-name.invalid", 80)


async def test_no_socket_of_the_file_system_is_a_receiver(tmp_path: Path) -> None:
    """The backend makes no such connection."""
    with pytest.raises(ConnectError):
        await CheckedBackend(ReceiverRules(), look_up).connect_unix_socket(str(tmp_path / "socket"))
