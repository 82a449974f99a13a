"""Shared workers as the dashboard shows them: seen once for each of their nodes, and yet one process with one place."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad, SeenReplica
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import NodeScale
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.ui import watch
from lego_serve.metrics import Metrics
from tests.support.ui.lively import LivelyRunner

BUDGET, NODE_BYTES = 100, 20
NODES = ("lego-tiny.text_encoder", "lego-tiny.backbone", "lego-tiny.vae")


class Sharing(LivelyRunner):
    """All nodes are on shared workers."""

    def __init__(self) -> None:
        super().__init__(step_s=0.001)
        self.workers, self.evicted = ["wkr1", "wkr2"], 1
        self.board.nodes = {"shared.workers": NodeScale(2, ReplicaBounds(1, 3))}

    async def loads(self) -> list[SeenReplica]:
        """Each worker for each of its nodes."""
        memory = (
            MemoryUse("models", NODE_BYTES, BUDGET, self.evicted),
            MemoryUse("host", NODE_BYTES, BUDGET, self.evicted),
        )
        load = ReplicaLoad(memory=memory, machine="m1")
        return [SeenReplica(f"{each}.{node}", *node.split("."), load) for each in self.workers for node in NODES]


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> Sharing:
    """What is asked for again is looked at again."""
    monkeypatch.setattr(watch, "FRESH_S", 0.0)
    return Sharing()


@pytest.fixture
async def client(sharing: Sharing, settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the gateway over it."""
    app = create_app(sharing, sharing, settings, Metrics())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("kind", ["models", "host"])
async def test_the_place_for_models_counts_once_for_each_worker(client: httpx2.AsyncClient, kind: str) -> None:
    """However many nodes share it, on the device or in host memory; on the caches' page and in the overview."""
    [row] = [row for row in (await client.get("/v1/admin/caches")).json()["data"] if row["kind"] == kind]
    assert (row["model"], row["used"], row["budget"]) == ("shared.workers", 2 * 3 * NODE_BYTES, 2 * BUDGET)
    assert [(each["id"], each["used"], each["budget"], each["evicted"]) for each in row["replicas"]] == [
        (worker, 3 * NODE_BYTES, BUDGET, 3) for worker in ("wkr1", "wkr2")
    ]
    [place] = [each for each in (await client.get("/v1/admin/overview")).json()["caches"] if each["kind"] == kind]
    assert place["budget"] == 2 * BUDGET


async def test_what_workers_evict_is_told_by_themselves_alone(client: httpx2.AsyncClient, sharing: Sharing) -> None:
    """Whoever looks adds no decision to theirs."""
    await client.get("/v1/admin/overview")
    sharing.evicted = 5
    await client.get("/v1/admin/overview")
    assert [each for each in sharing.journal.decisions() if each.kind == "evict"] == []


async def test_a_node_on_them_is_counted_and_pinned_with_them(client: httpx2.AsyncClient) -> None:
    """Each says what it scales as."""
    [model] = [m for m in (await client.get("/v1/admin/overview")).json()["models"] if m["name"] == "lego-tiny"]
    on_workers = [node for node in model["nodes"] if node["up"]]
    assert [(node["scaled_as"], node["target"], node["max"]) for node in on_workers] == [("shared.workers", 2, 3)] * 3


async def test_a_worker_that_goes_takes_all_its_nodes_with_it_and_is_told_of_once(
    client: httpx2.AsyncClient, sharing: Sharing
) -> None:
    """One alert, and one decision for the one that comes in its place."""
    await client.get("/v1/admin/overview")
    sharing.workers = ["wkr2", "wkr3"]
    sharing.journal.note_departed(["wkr1"], sharing.now())
    overview = (await client.get("/v1/admin/overview")).json()
    assert [alert["said"] for alert in overview["alerts"]] == ["A shared worker was lost."]
    [model] = [m for m in overview["models"] if m["name"] == "lego-tiny"]
    assert [node["lost"] for node in model["nodes"] if node["up"]] == [1, 1, 1]
    decisions = (await client.get("/v1/admin/decisions")).json()["data"]
    assert {(each["kind"], each["subject"], each["count"]) for each in decisions} == {
        ("lost", "wkr1", 1),
        ("up", "wkr3", 1),
    }


async def test_a_worker_that_was_drained_has_stopped(client: httpx2.AsyncClient, sharing: Sharing) -> None:
    """It was not lost, whichever of its nodes is looked at."""
    await client.get("/v1/admin/overview")
    sharing.journal.decide("drain", "wkr1", "an operator asked", sharing.now(), by="operator")
    sharing.workers = ["wkr2"]
    sharing.journal.note_departed(["wkr1"], sharing.now())
    overview = (await client.get("/v1/admin/overview")).json()
    assert overview["alerts"] == []
    [model] = [m for m in overview["models"] if m["name"] == "lego-tiny"]
    assert all(node["lost"] == 0 for node in model["nodes"])
