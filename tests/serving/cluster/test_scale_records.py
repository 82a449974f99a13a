"""Pins and the board of replicas, as the controller and the gateways exchange them."""

import asyncio
from itertools import chain, repeat

import pytest

from lego_serve.core.placement.waiting_reports import HEARD_S, WaitingReport
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.cluster.scale_records import BOARD, PIN, WAITING, ClusterScaling, ScaleRecords, forget
from tests.support.scale_texts import FakeStore

APPS = {("m", "backbone"): "app-1", ("m", "vae"): "app-2"}
ONE_TO_FOUR = ReplicaBounds(1, 4)


def decided(replicas: int, reason: str = "9 requests want it") -> ScaleDecision:
    """A decision."""
    return ScaleDecision(replicas, reason)


async def test_a_gateway_reads_what_the_controller_decided() -> None:
    """By the names of nodes; other servers' applications are left out."""
    store = FakeStore()
    records = ScaleRecords(store)
    for app in ("app-1", "other"):
        records.note(app, 1, decided(1), ONE_TO_FOUR, 10.0)
        records.note(app, 1, decided(3), ONE_TO_FOUR, 11.0)
    board = await ClusterScaling(APPS, store).read()
    assert set(board.nodes) == {"m.backbone"}
    assert board.nodes["m.backbone"].target == 3
    assert [(c.node, c.before, c.after, c.why) for c in board.changes] == [("m.backbone", 1, 3, "9 requests want it")]


async def test_a_pin_is_seen_by_the_controller_within_a_second_and_asked_for_no_oftener() -> None:
    """For all nodes together."""
    store = FakeStore()
    scaling, records = ClusterScaling(APPS, store), ScaleRecords(store)
    assert records.pinned("app-1", 10.0) is None
    await scaling.pin("m.backbone", ReplicaBounds(2, 3))
    assert records.pinned("app-1", 10.5) is None
    assert records.pinned("app-1", 11.0) == ReplicaBounds(2, 3)
    assert records.pinned("app-2", 11.5) is None
    assert store.looks == 2
    await scaling.pin("m.backbone", None)
    assert records.pinned("app-1", 12.1) is None


async def test_a_gateway_tells_how_many_jobs_wait_there_for_as_long_as_any_does() -> None:
    """Each time anew, so that it counts; then it takes its word back, and writes nothing more."""
    store = FakeStore()
    records, waiting = ScaleRecords(store), chain([{}, {"app-1": 5}, {"app-1": 7}], repeat({}))
    told: list[tuple[int, int]] = []

    def jobs() -> dict[str, int]:
        told.append((records.waiting("app-1", 10.0 + len(told)), len(store.texts)))
        return next(waiting)

    reporting = asyncio.create_task(ClusterScaling(APPS, store).report_waiting(jobs, pause_s=0.0))
    while len(told) < 6:
        await asyncio.sleep(0.01)
    reporting.cancel()
    assert told[:6] == [(0, 0), (0, 0), (5, 1), (7, 1), (0, 0), (0, 0)]


def test_what_a_silent_gateway_has_told_is_forgotten_and_removed() -> None:
    """It died with its jobs; a Ray that does not answer for a while costs nothing."""
    store = FakeStore()
    records = ScaleRecords(store)
    store.put(f"{WAITING}gone", WaitingReport(3, {"app-1": 5}).to_json())
    assert records.waiting("app-1", 10.0) == 5
    store.is_gone = True
    assert records.waiting("app-1", 12.0) == 5
    store.is_gone = False
    assert records.waiting("app-1", 10.5 + HEARD_S) == 0
    assert records.waiting("app-1", 40.0) == 0
    assert not store.texts


async def test_what_is_not_there_is_refused_by_name() -> None:
    """And says what there is."""
    with pytest.raises(NotFound, match=r"no node `m.lora`; there is m.backbone, m.vae"):
        await ClusterScaling(APPS, FakeStore()).pin("m.lora", ONE_TO_FOUR)


async def test_without_ray_decisions_hold_and_pins_are_refused() -> None:
    """Nothing is known then; what was pinned stays pinned."""
    store = FakeStore()
    records, scaling = ScaleRecords(store), ClusterScaling(APPS, store)
    store.texts[f"{PIN}app-1"] = "[2, 2]"
    assert records.pinned("app-1", 10.0) == ReplicaBounds(2, 2)
    store.is_gone = True
    assert records.pinned("app-1", 20.0) == ReplicaBounds(2, 2)
    records.note("app-1", 1, decided(3), ONE_TO_FOUR, 11.0)
    assert not (await scaling.read()).nodes
    with pytest.raises(NodeUnavailable):
        await scaling.pin("m.vae", ONE_TO_FOUR)


def test_a_restart_forgets_pins_and_what_was_decided_of_its_own_nodes() -> None:
    """Those of other servers on the same Ray stay."""
    store = FakeStore()
    records = ScaleRecords(store)
    for app in ("app-1", "other"):
        store.put(f"{PIN}{app}", "[2, 2]")
        records.note(app, 1, decided(1), ONE_TO_FOUR, 10.0)
        records.note(app, 1, decided(2), ONE_TO_FOUR, 11.0)
    forget(["app-1", "app-2"], store)
    assert set(store.texts) == {f"{PIN}other", BOARD}
    assert "app-1" not in store.get(BOARD)
    assert "other" in store.get(BOARD)
