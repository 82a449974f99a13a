"""Repeats of a request that is at work: what they cost, how many may wait, until when; and which answers they get."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from lego_serve.core.nodes.requests import AdapterAdminRequest, ModelAdapters
from lego_serve.errors import JobCancelled
from lego_serve.gateway.jobs.once import OnceOnly
from lego_serve.gateway.repeats import waiting
from lego_serve.gateway.settings import Caller, GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.memory import MemoryJobStore
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import LEASE_S, Cluster, Gateway, wait_until

KEY, URL, BODY = {"idempotency-key": "once"}, "/v1/admin/adapters", {"id": "x", "path": "y"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One store."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", compat=frozenset({"a1111"})))


class Slow:
    """Holds up what a gateway registers until it is let go on."""

    def __init__(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.begun = asyncio.Event(), 0
        register = gateway.runner.adapters

        async def adapters(model: str | None, request: AdapterAdminRequest) -> ModelAdapters:
            self.begun += 1
            await self.gate.wait()
            return await register(model, request)

        monkeypatch.setattr(gateway.runner, "adapters", adapters)


def count_notes(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that a gateway asks its store for, or writes, from now on."""
    store, asked = gateway.app.state.jobs.store, list[str]()
    note = store.note

    async def note_down(name: str, *text: Any, **how: Any) -> str:
        asked.append(name)
        kept: str = await note(name, *text, **how)
        return kept

    monkeypatch.setattr(store, "note", note_down)
    return asked


def ask(gateway: Gateway) -> "asyncio.Future[httpx2.Response]":
    """A request with the key."""
    return asyncio.ensure_future(gateway.client.post(URL, json=BODY, headers=KEY))


async def test_repeats_that_wait_in_one_gateway_ask_the_store_nothing(cluster, monkeypatch) -> None:
    """However long they wait, and however many."""
    async with cluster.gateway() as gateway:
        slow, asked = Slow(gateway, monkeypatch), count_notes(gateway, monkeypatch)
        first = ask(gateway)
        await wait_until(lambda: slow.begun == 1)
        before = len(asked)
        others = [ask(gateway) for _ in range(waiting.MAX_OF_KEY)]
        await asyncio.sleep(0.5)
        assert len(asked) == before
        slow.gate.set()
        answers = await asyncio.gather(first, *others)
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None] + ["true"] * len(others)
        assert slow.begun == 1


async def test_repeats_in_another_gateway_look_together_and_less_and_less_often(cluster, monkeypatch) -> None:
    """One look for all of them: after a tenth of a second, then in twice the time each, up to two seconds."""
    async with cluster.gateway() as first, cluster.gateway() as second:
        slow, asked = Slow(first, monkeypatch), count_notes(second, monkeypatch)
        one = ask(first)
        await wait_until(lambda: slow.begun == 1)
        others = [ask(second) for _ in range(6)]
        await asyncio.sleep(1.0)
        assert 2 <= len(asked) <= 5
        slow.gate.set()
        answers = await asyncio.gather(one, *others)
        assert {answer.status_code for answer in answers} == {200}
        assert slow.begun == 1


async def test_no_more_wait_than_may(cluster, monkeypatch) -> None:
    """Of one key, and of one tenant; who is refused is told the numbers and when to come again."""
    monkeypatch.setattr(waiting, "MAX_OF_KEY", 2)
    monkeypatch.setattr(waiting, "MAX_OF_TENANT", 3)
    async with cluster.gateway() as gateway:
        slow = Slow(gateway, monkeypatch)
        first = ask(gateway)
        await wait_until(lambda: slow.begun == 1)
        others = [ask(gateway) for _ in range(5)]
        await wait_until(lambda: sum(other.done() for other in others) == 3)
        refused = [other.result() for other in others if other.done()]
        assert {error_of(answer) for answer in refused} == {(429, "over_capacity", None)}
        assert {answer.headers["retry-after"] for answer in refused} == {"5"}
        assert "2 requests with this Idempotency-Key wait already" in refused[0].text
        two = [
            asyncio.ensure_future(
                gateway.client.post(URL, json={"id": "z", "path": "y"}, headers={"idempotency-key": "two"})
            )
            for _ in range(3)
        ]
        await wait_until(lambda: slow.begun == 2 and any(other.done() for other in two))
        [full] = [other.result() for other in two if other.done()]
        assert "3 requests with an Idempotency-Key of yours wait already" in full.text
        slow.gate.set()
        answers = await asyncio.gather(first, *(other for other in (*others, *two) if not other.done()))
        assert [answer.status_code for answer in answers] == [200] * 5
        assert (await ask(gateway)).status_code == 200  # their places are free again


async def test_who_waits_is_told_that_the_server_stops(cluster, monkeypatch) -> None:
    """The first one is carried out to its end."""
    async with cluster.gateway() as gateway:
        slow = Slow(gateway, monkeypatch)
        first = ask(gateway)
        await wait_until(lambda: slow.begun == 1)
        other = ask(gateway)
        await asyncio.sleep(0.05)
        gateway.draining.begin()
        assert error_of(await other)[:2] == (503, "server_stopping")
        slow.gate.set()
        assert (await first).status_code == 200


async def test_who_waits_and_leaves_makes_room(cluster, monkeypatch) -> None:
    """Its end is noticed while the first one is still at work, here and where another gateway is at it."""
    monkeypatch.setattr(waiting, "MAX_OF_KEY", 1)
    async with cluster.gateway() as first, cluster.gateway() as second:
        slow = Slow(first, monkeypatch)
        one = ask(first)
        await wait_until(lambda: slow.begun == 1)
        asked = count_notes(second, monkeypatch)
        for gateway in (first, second):
            for _ in range(3):
                assert await left(gateway) == 499
        await asyncio.sleep(0.3)
        before = len(asked)
        await asyncio.sleep(0.5)
        assert len(asked) == before  # nobody waits there, so nobody looks
        slow.gate.set()
        assert (await one).status_code == 200
        assert (await ask(second)).headers["idempotency-replayed"] == "true"


async def left(gateway: Gateway) -> int:
    """The status that is noted for a client which sends a whole request and leaves."""
    statuses = list[int]()
    said = iter([{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(said)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"idempotency-key", b"once"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": URL, "raw_path": URL.encode(), "query_string": b""}
    more = {"headers": headers, "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1), "state": {}}
    async with asyncio.timeout(30):
        await gateway.app({**scope, **more, "http_version": "1.1", "root_path": ""}, receive, send)
    return statuses[0]


async def test_a_job_that_was_cancelled_is_made_when_it_is_asked_for_again(cluster) -> None:
    """Its client had left, as it may a second later; what it sent was right."""
    async with cluster.gateway() as gateway:
        body = {"prompt": "a", "width": 128, "height": 128}
        gateway.runner.error = JobCancelled("The client left before the image was ready.")
        assert (await gateway.client.post("/sdapi/v1/txt2img", json=body, headers=KEY)).status_code == 409
        gateway.runner.error = None
        again = await gateway.client.post("/sdapi/v1/txt2img", json=body, headers=KEY)
        assert (again.status_code, again.headers.get("idempotency-replayed")) == (200, None)


@pytest.fixture
def answering(tmp_path: Path) -> Callable[..., Any]:
    """A function that asks twice for what is answered with a status; whether a second answer was the first again."""
    files, keys = JobFiles(FolderBlobs(tmp_path)), iter(range(100))

    async def twice(status: int, *, has_left: bool = False) -> bool:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.request" and has_left:
                await receive()
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        once = OnceOnly(app, (MemoryJobStore(time.time, LEASE_S), files), 60.0, lambda _: Caller(), Draining())
        key, headers = f"k{next(keys)}".encode(), list[tuple[bytes, bytes]]()
        for _ in range(2):
            said = iter([{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}])

            async def receive(said: Any = said) -> Message:
                if (message := next(said))["type"] == "http.disconnect" and not has_left:
                    await asyncio.Event().wait()
                return message

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers[:] = message["headers"]

            scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"idempotency-key", key)]}
            await once(scope | {"query_string": b"", "scheme": "http", "server": ("x", 80)}, receive, send)
        return (b"idempotency-replayed", b"true") in headers

    return twice


@pytest.mark.parametrize("status", [200, 201, 204, 303, 400, 404, 405, 410, 415, 422])
async def test_what_was_done_or_will_never_do_is_answered_again(answering, status) -> None:
    """Success and what is wrong with the request itself."""
    assert await answering(status)


@pytest.mark.parametrize("status", [401, 403, 408, 409, 413, 425, 429, 499, 500, 502, 503, 504])
async def test_what_may_pass_is_asked_again(answering, status) -> None:
    """Who may ask, how fast, what is in its way, and whatever is the server's."""
    assert not await answering(status)


async def test_an_error_is_not_kept_where_its_client_has_left_and_what_was_done_is(answering) -> None:
    """The error may be about its leaving, and what was done is not to be done again."""
    assert not await answering(400, has_left=True)
    assert await answering(200, has_left=True)
