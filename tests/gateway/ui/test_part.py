"""What gateways tell each other, and how it adds up."""

import asyncio

import httpx2

from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.ui import recorder
from lego_serve.gateway.ui.part import Since
from lego_serve.metrics import Metrics
from tests.support.ui.lively import LivelyRunner

STALE_S = 0.6  # what is older is asked for again
BODY = {"prompt": "a", "num_inference_steps": 2, "seed": 3}


class FakePeers(Peers):
    """One other gateway, asked without a socket."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client, self.asked = client, []
        self.is_gone = False

    async def ask(self, request, method: str, path: str) -> list[object]:
        """Its answer, unless it is gone."""
        self.asked.append(path)
        if self.is_gone:
            return []
        answer = await self.client.request(method, path, headers={"x-lego-peer": "1"})
        return [answer.json()] if answer.status_code == 200 else []


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
    other = create_app(runners[1], runners[1], settings, Metrics())
    monkeypatch.setattr(recorder.os, "getpid", lambda: 1)
    async with client_of(other) as theirs:
        peers = FakePeers(theirs)
        async with client_of(create_app(runners[0], runners[0], settings, Metrics(), peers)) as ours:
            for client, count in ((ours, 2), (theirs, 3)):
                for _ in range(count):
                    await client.post("/v1/images/generations", json=BODY)
            first = (await ours.get("/v1/admin/requests")).json()
            assert first["total"] == 5
            assert {row["gateway"] for row in first["data"]} == {"1", "2"}
            overview = (await ours.get("/v1/admin/overview")).json()
            assert [gateway["id"] for gateway in overview["gateways"]] == ["1", "2"]
            await theirs.post("/v1/images/generations", json=BODY)
            await asyncio.sleep(STALE_S)
            assert (await ours.get("/v1/admin/requests")).json()["total"] == 6
            assert "2.3." in peers.asked[-1]  # three of its jobs had been heard
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
