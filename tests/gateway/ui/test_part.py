"""What gateways tell each other, and how it adds up."""

import asyncio
from dataclasses import dataclass, field
from hashlib import sha256

import httpx2

from lego_serve.core.nodes.requests import MemoryUse
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import HEADER, MACHINE, PROCESS, Peer, Peers
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.gateway.ui import recorder
from lego_serve.gateway.ui.part import Since
from lego_serve.gateway.ui.watch import _evicted_words
from lego_serve.metrics import Metrics
from tests.support.ui.lively import LivelyRunner

STALE_S = 0.6  # what is older is asked for again
BODY = {"prompt": "a", "num_inference_steps": 2, "seed": 3}


class FakePeers(Peers):
    """Other gateways, asked without a socket; ``asked_as`` says whether they are on this machine."""

    def __init__(self, *clients: httpx2.AsyncClient, asked_as: str = PROCESS) -> None:
        self.clients, self.asked_as, self.asked = clients, asked_as, []
        self.is_gone = False
        self.token = lambda: ""

    async def ask(self, request, method: str, path: str) -> list[object]:
        """Their answers, unless they are gone, or the request is a peer's."""
        if self.is_gone or HEADER in request.headers:
            return []
        answers = [await each.request(method, path, headers={HEADER: PROCESS}) for each in self.clients]
        return [answer.json() for answer in answers if answer.status_code == 200]

    async def current(self) -> list[Peer]:
        """All, unless they are gone."""
        return [] if self.is_gone else [Noted(each, self.asked_as, self.token, self.asked) for each in self.clients]

    beside = current


@dataclass(frozen=True, slots=True)
class Noted(Peer):
    """A peer that notes what it is asked."""

    asked: list[str] = field(compare=False)

    async def ask(self, path: str) -> object:
        """Its answer."""
        self.asked.append(path)
        return await Peer.ask(self, path)


def client_of(app) -> httpx2.AsyncClient:
    """A client without a socket."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")


def test_a_mark_is_read_back_as_it_was_written() -> None:
    """Each gateway finds its own among several."""
    since = Since(12, 3, 1795917754.0)
    text = f"1.{since},20.{Since()}"
    assert (Since.read(text, "1"), Since.read(text, "20"), Since.read(text, "3")) == (since, Since(), Since())
    assert Since.read("1.x.y.z,,1", "1") == Since()


async def test_any_gateway_answers_for_all(monkeypatch) -> None:
    """Requests of both are in one list; what was heard is not asked for again; a gone one leaves its past."""
    settings, runners = GatewaySettings("lego-tiny"), [LivelyRunner(0.001), LivelyRunner(0.001)]
    monkeypatch.setattr(recorder.os, "getpid", lambda: 2)
    other = create_app(runners[1], runners[1], settings, Metrics(), FakePeers())
    monkeypatch.setattr(recorder.os, "getpid", lambda: 1)
    async with client_of(other) as theirs:
        peers = FakePeers(theirs)
        async with client_of(create_app(runners[0], runners[0], settings, Metrics(), peers)) as ours:
            for client, count in ((ours, 2), (theirs, 3)):
                for _ in range(count):
                    await client.post("/v1/images/generations", json=BODY)
            first = (await ours.get("/v1/admin/requests")).json()
            assert first["total"] == 5
            assert {row["gateway"].rpartition("-")[2] for row in first["data"]} == {"1", "2"}
            overview = (await ours.get("/v1/admin/overview")).json()
            assert {gateway["pid"] for gateway in overview["gateways"]} == {1, 2}
            await theirs.post("/v1/images/generations", json=BODY)
            await asyncio.sleep(STALE_S)
            assert (await ours.get("/v1/admin/requests")).json()["total"] == 6
            assert "-2.3." in peers.asked[-1]  # three of its jobs had been heard
            graph = (await ours.get("/v1/admin/workflows/lego-tiny")).json()
            assert graph["times"]["latents"]["count"] == 6
            job = (await theirs.get("/v1/admin/requests")).json()["data"][0]["id"]
            assert (await ours.get(f"/v1/admin/requests/{job}")).json()["id"] == job
            peers.is_gone = True
            await asyncio.sleep(STALE_S)
            assert (await ours.get("/v1/admin/requests")).json()["total"] == 6


async def test_a_lost_replica_is_shown_by_a_gateway_that_nobody_looked_at_before() -> None:
    """From the decision, which has its node."""
    runner = LivelyRunner(0.02)
    async with client_of(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as client:
        body = {"prompt": "a", "num_inference_steps": 20}
        running = asyncio.ensure_future(client.post("/v1/images/generations", json=body))
        while not runner.journal.history.live or runner.journal.history.live[0].step < 2:
            await asyncio.sleep(0.01)
        lost = runner.journal.history.live[0].replica
        assert lost is not None
        runner.backbones.remove(lost)
        await running
        overview = (await client.get("/v1/admin/overview")).json()
        [backbone] = [node for node in overview["models"][0]["nodes"] if node["component"] == "backbone"]
        assert (backbone["up"], backbone["lost"]) == (1, 1)
        assert "goes on elsewhere" in overview["alerts"][0]["more"]


async def test_a_machine_answers_for_all_its_gateways(monkeypatch) -> None:
    """Whichever of its processes is asked, and for a user's key too: gateways of one configuration trust each other."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, name == "ops") for name in ("ops", "shop"))
    settings, runners = GatewaySettings("lego-tiny", keys), [LivelyRunner(0.001) for _ in range(3)]
    apps = []
    beside = FakePeers()
    for number, (runner, peers) in enumerate(zip(runners, (FakePeers(), beside, FakePeers()), strict=True)):
        monkeypatch.setattr(recorder.os, "getpid", lambda number=number: number)
        apps.append(create_app(runner, runner, settings, Metrics(), peers))
    async with client_of(apps[0]) as hidden, client_of(apps[1]) as front:
        beside.clients = (hidden,)
        monkeypatch.setattr(recorder.os, "getpid", lambda: 9)
        far = FakePeers(front, asked_as=MACHINE)
        async with client_of(create_app(runners[2], runners[2], settings, Metrics(), far)) as ours:
            for client, key in ((hidden, "shop"), (front, "ops"), (front, "shop")):
                answer = await client.post(
                    "/v1/images/generations", json=BODY, headers={"authorization": f"Bearer {key}"}
                )
                assert answer.status_code == 200
            for key, count in (("shop", 2), ("ops", 3)):
                answer = await ours.get("/v1/admin/requests", headers={"authorization": f"Bearer {key}"})
                assert answer.json()["total"] == count
            for headers in (
                {},
                {"authorization": "Bearer ops"},
                {HEADER: PROCESS},
                {HEADER: PROCESS, "x-lego-peer-token": "x"},
            ):
                assert (await ours.get("/v1/admin/part", headers=headers)).status_code == 403


def test_what_was_evicted_is_told_with_how_full_its_place_is() -> None:
    """The bytes in its row are its own, none any more; those of a cache are what is in it."""
    assert _evicted_words(MemoryUse("images", 1_000_000, 25_000_000, 3), 1) == (
        "1 encoded image",
        "1 of 25 MB are taken",
    )
    assert _evicted_words(MemoryUse("prompts", 1_000_000, 2_000_000, 2), 2) == ("2 prompts", "1 of 2 MB are taken")
