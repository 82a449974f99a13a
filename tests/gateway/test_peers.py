"""Several gateway processes answer for each other's jobs, over sockets in a folder."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import Request

from lego_serve.gateway import peers as peering
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import HEADER, Machines, Peers
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.runner import FakeRunner

KEYS = (ApiKey(sha256(b"admin-key").hexdigest(), "ops", is_admin=True),)
ADMIN = {"authorization": "Bearer admin-key"}


@asynccontextmanager
async def gateway(folder: Path, name: str, runner: FakeRunner) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway that listens on a socket in the folder."""
    own = folder / f"{name}.sock"
    app = create_app(runner, runner, GatewaySettings("lego-tiny", KEYS), Metrics(), Peers(folder, own))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(own))
    serving = asyncio.ensure_future(server._serve([bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    transport = httpx2.AsyncHTTPTransport(uds=str(own))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=ADMIN, timeout=60) as client:
        yield client
    server.should_exit = True
    await serving


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[list[FakeRunner], list[httpx2.AsyncClient]]]:
    """Two gateways, and the socket of a third that has died."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()
    runners = [FakeRunner(), FakeRunner()]
    async with gateway(tmp_path, "a", runners[0]) as a, gateway(tmp_path, "b", runners[1]) as b:
        yield runners, [a, b]


async def test_each_lists_the_jobs_of_all(two) -> None:
    """A job in flight in one gateway is seen through the other; a dead gateway is passed over."""
    runners, clients = two
    tasks = []
    for runner, client, name in zip(runners, clients, "ab", strict=True):
        runner.gate = asyncio.Event()
        ask = {"json": {"prompt": "a"}, "headers": {"x-request-id": name}}
        tasks.append(asyncio.ensure_future(client.post("/v1/images/generations", **ask)))
        while not runner.waiting:
            await asyncio.sleep(0.01)
    for client in clients:
        listed = (await client.get("/v1/admin/jobs")).json()["data"]
        assert sorted(card["id"] for card in listed) == ["job_a", "job_b"]
    for runner in runners:
        runner.gate.set()
    assert [(await task).status_code for task in tasks] == [200, 200]


async def test_a_job_is_cancelled_through_whichever_gateway_is_asked(two) -> None:
    """The one that has it cancels it; a job nobody has is 404, and nobody asks in circles."""
    runners, clients = two
    runners[0].cancel = lambda job_id: False  # it has none
    answer = await clients[0].delete("/v1/admin/jobs/job_known")
    assert (answer.status_code, runners[1].asked_to_cancel) == (200, ["job_known"])
    assert (await clients[0].delete("/v1/admin/jobs/job_other")).status_code == 404
    assert runners[1].asked_to_cancel == ["job_known", "job_other"]


async def test_a_jobs_story_is_told_through_whichever_gateway_is_asked(two) -> None:
    """The one that has it answers; a job nobody has is 404."""
    runners, clients = two
    runners[0].story = lambda job_id: ()
    runners[1].story = lambda job_id: ("0.000000 submitted",) if job_id == "job_known" else ()
    answer = await clients[0].get("/v1/admin/jobs/job_known")
    assert (answer.status_code, answer.json()["story"]) == (200, ["0.000000 submitted"])
    assert (await clients[0].get("/v1/admin/jobs/job_other")).status_code == 404


async def test_a_peers_question_is_answered_for_oneself_alone(two) -> None:
    """And only to an admin, whoever passes it on."""
    runners, clients = two
    answer = await clients[0].delete("/v1/admin/jobs/job_other", headers={HEADER: "1"})
    assert (answer.status_code, runners[1].asked_to_cancel) == (404, [])
    answer = await clients[0].delete("/v1/admin/jobs/job_known", headers={HEADER: "1", "authorization": "Bearer no"})
    assert answer.status_code == 401


async def test_asking_a_peer_makes_no_tls_context_and_one_client_a_socket(two, monkeypatch) -> None:
    """However often it is asked: a context takes a tenth of a second in which a gateway does nothing else."""
    made: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *args, **more: made.append("context"))
    transports = httpx2.AsyncHTTPTransport.__init__

    def counted(self, *args, **more) -> None:
        made.append("transport")
        transports(self, *args, **more)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "__init__", counted)
    _, clients = two
    await clients[0].get("/v1/admin/jobs")
    first = len(made)
    for _ in range(20):
        assert (await clients[0].get("/v1/admin/jobs")).status_code == 200
    assert made == ["transport"] * first
    assert first == 2  # of the other gateway and of the dead one


async def test_a_client_goes_with_its_socket_and_all_go_at_the_end(tmp_path: Path) -> None:
    """A gateway that is gone is not remembered; one that came since is asked."""
    peers, runner = Peers(tmp_path, tmp_path / "own.sock"), FakeRunner()
    request = Request({"type": "http", "headers": [(b"authorization", b"Bearer admin-key")]})
    for name in ("a", "b"):
        async with gateway(tmp_path, name, runner):
            [answer] = await peers.ask(request, "GET", "/v1/admin/jobs")
            assert answer["object"] == "list"
            assert [socket.name for socket in peers._clients] == [f"{name}.sock"]
        (tmp_path / f"{name}.sock").unlink()
    kept = list(peers._clients.values())
    await peers.close()
    assert [client.is_closed for client in kept] == [True]


async def test_gateways_of_other_machines_answer_with_those_beside_them(tmp_path: Path, monkeypatch) -> None:
    """Each machine is asked once, under one of its addresses, and asks no further machine."""
    there = tmp_path / "there"
    there.mkdir()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        port = bound.getsockname()[1]
        app = create_app(FakeRunner(), FakeRunner(), GatewaySettings("lego-tiny", KEYS), Metrics(), Peers(there, there))
        asked: list[str] = []

        async def noted(scope, receive, send) -> None:
            headers = dict(scope.get("headers", ()))
            asked.append(headers.get(HEADER.encode(), b"").decode())
            await app(scope, receive, send)

        server = uvicorn.Server(uvicorn.Config(noted, log_level="error", lifespan="off"))
        serving = asyncio.ensure_future(server._serve([bound]))
        monkeypatch.setattr(peering, "_is_own", lambda address: False)
        others = Peers(tmp_path, tmp_path / "own.sock", Machines(f"localhost:{port}"))
        request = Request({"type": "http", "headers": [(b"authorization", b"Bearer admin-key")]})
        [answer] = await others.ask(request, "GET", "/v1/admin/jobs")
        assert answer["object"] == "list"
        assert asked == ["machine"]
        passed_on = Request({"type": "http", "headers": [(HEADER.encode(), b"machine")]})
        assert await others.ask(passed_on, "GET", "/v1/admin/jobs") == []
        await others.close()
        server.should_exit = True
        await serving


async def test_a_name_without_addresses_leaves_the_other_machines_out(tmp_path: Path) -> None:
    """And no machine asks itself."""
    request = Request({"type": "http", "headers": []})
    for name in ("nobody.invalid:1", "127.0.0.1:1"):
        assert await Peers(tmp_path, tmp_path / "own.sock", Machines(name)).ask(request, "GET", "/v1/admin/jobs") == []
