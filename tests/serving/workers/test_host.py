"""Loads, evictions and failed loads of a worker's nodes, with nodes that are nothing but a name."""

import asyncio
import itertools
import threading
from dataclasses import replace
from random import Random

import pytest

from lego_serve.core.caching.quarantine import Quarantine
from lego_serve.core.jobs.job import ModelMove
from lego_serve.errors import CheckpointError, NodeError, NodeUnavailable
from lego_serve.serving.workers.host import HostedModel, ModelHost
from tests.support.clocks import until
from tests.support.cluster.shelves import Name, Shelf, use


async def test_the_first_call_loads_and_says_how_long_it_waited() -> None:
    """The second finds it there; calls that come together share one load."""
    shelf = Shelf("a", load=lambda name: threading.Event().wait(0.02))
    host = ModelHost(shelf.models, 1)
    async with host.lease("a", None, ()) as first:
        assert first.load_s >= 0.02
    async with host.lease("a", None, ()) as second:
        assert second.load_s == 0.0
    assert shelf.loads == ["a"]
    slow = ModelHost(shelf.models, 1, map(float, itertools.count()).__next__)  # each look at the clock takes a second
    for is_first in (True, False):
        async with slow.lease("a", None, ()) as lease:
            assert (lease.load_s > 0) is is_first
    shelf = Shelf("a")
    host = ModelHost(shelf.models, 1)
    nodes = await asyncio.gather(*(use(host, "a") for _ in range(5)))
    assert len(set(map(id, nodes))) == 1
    assert shelf.loads == ["a"]


async def test_what_is_beyond_the_budget_is_evicted_and_closed() -> None:
    """Down to no model at all of a kind, and back at the next call."""
    shelf = Shelf("a", "b", "c")
    host = ModelHost(shelf.models, 2, lambda: 0.0)  # loads that cost the same: the oldest goes first
    first = await use(host, "a")
    for name in ("b", "c", "b", "c"):
        await use(host, name)
    assert first.is_closed
    assert (host.evictions_of("a"), host.evictions_of("b")) == (1, 0)
    assert sorted(host.nodes) == ["b", "c"]
    assert host.used_bytes <= host.max_bytes
    again = await use(host, "a")
    assert again is not first


async def test_other_calls_go_on_while_an_evicted_node_ends_its_step_and_only_then_the_next_one_loads() -> None:
    """It may take as long as a step, or a ControlNet far away."""
    may_end, is_closing = threading.Event(), threading.Event()
    shelf = Shelf("a", "b", "c")

    class Slow(Name):
        """One that another call must let end."""

        def close(self) -> None:
            """Wait for it."""
            is_closing.set()
            self.is_closed = may_end.wait(10.0)

    models = shelf.models | {"a": HostedModel(lambda: 1, lambda copy: Slow("a"))}
    host = ModelHost(models, 2)
    first = await use(host, "a")
    async with host.lease("c", None, ()):
        loading = asyncio.ensure_future(use(host, "b"))
        await until(is_closing.is_set)
        assert shelf.loads == ["c"]
        may_end.set()
        await loading
    assert first.is_closed
    assert sorted(host.nodes) == ["b", "c"]


async def test_a_node_that_cannot_be_closed_makes_room_all_the_same() -> None:
    """For whoever waits for it."""

    class Stuck(Name):
        """One that fails to close."""

        def close(self) -> None:
            """It does."""
            raise RuntimeError("no")

    host = ModelHost(Shelf("b").models | {"a": HostedModel(lambda: 1, lambda copy: Stuck("a"))}, 1)
    await use(host, "a")
    assert (await use(host, "b")).name == "b"


async def test_loads_for_calls_and_evictions_are_told_once_with_what_made_room_for_what() -> None:
    """Not what was loaded at the start; an eviction also where the load that it was for has failed."""

    def load(name: str) -> None:
        if name == "bad":
            raise CheckpointError("no folder here")

    host = ModelHost(Shelf("a", "b", "bad", size=3, load=load).models, 3)
    host.preload(("a",))
    assert host.take_moves() == ()
    await use(host, "b")
    evicted, loaded = host.take_moves()
    assert evicted == ModelMove("a", 3, evicted_for="b")
    assert (loaded.kind, loaded.model, loaded.size_bytes) == ("load", "b", 3)
    assert loaded.seconds > 0.0
    assert host.take_moves() == ()
    with pytest.raises(NodeUnavailable):
        await use(host, "bad")
    assert host.take_moves() == (ModelMove("b", 3, evicted_for="bad"),)


async def test_a_node_in_use_is_never_evicted() -> None:
    """Whoever needs its room waits until the call has ended."""
    host = ModelHost(Shelf("a", "b").models, 1)
    async with host.lease("a", None, ()) as lease:
        waiting = asyncio.ensure_future(use(host, "b"))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        assert not lease.node.is_closed
    assert (await waiting).name == "b"
    assert lease.node.is_closed


async def test_the_models_of_a_job_load_while_its_first_call_runs() -> None:
    """A set is there together, not one after the other call."""
    shelf = Shelf("text", "backbone", "vae")
    host = ModelHost(shelf.models, 3)
    async with host.lease("text", "job", ("backbone", "vae")):
        while len(host.nodes) < 3:
            await asyncio.sleep(0.001)
    assert shelf.most_at_once == 1


async def test_a_node_that_cannot_be_loaded_is_held_back_with_its_reason_and_the_others_go_on() -> None:
    """It is tried again when its time has come, and is then as good as any."""

    def load(name: str) -> None:
        if name == "bad" and is_broken:
            raise CheckpointError("no folder here")

    is_broken, now = True, 0.0
    shelf = Shelf("bad", "good", load=load)
    host = ModelHost(shelf.models, 1, lambda: now, Quarantine(10.0))
    for passed_s, left_s in ((0.0, 10.0), (1.0, 9.0), (9.5, 1.0)):  # a second at the least
        now = passed_s
        with pytest.raises(NodeUnavailable, match="bad could not be loaded and is held back for") as refused:
            await use(host, "bad")
        assert refused.value.retry_after_s == left_s
        assert refused.value.operator_reason == "bad: no folder here"
        assert "folder" not in refused.value.message
    assert shelf.loads == ["bad"]
    assert host.failures()["bad"].reason == "no folder here"
    assert (await use(host, "good")).name == "good"
    is_broken, now = False, 11.0
    assert (await use(host, "bad")).name == "bad"
    assert host.failures() == {}


async def test_a_node_larger_than_the_budget_is_refused_by_its_numbers() -> None:
    """Nothing is evicted for it."""
    host = ModelHost(Shelf("a").models | Shelf("large", size=5).models, 2)
    await use(host, "a")
    with pytest.raises(NodeError, match="large takes 5 bytes, and a worker has 2"):
        await use(host, "large")
    assert list(host.nodes) == ["a"]


async def test_a_size_is_asked_for_at_each_load_and_one_that_cannot_be_told_loads_nothing() -> None:
    """Files that are away at the start count as they are once they are back, not as nothing."""
    size, now = 0, 0.0

    def sized() -> int:
        if not size:
            raise CheckpointError("is it mounted?")
        return size

    shelf = Shelf("a", "away")
    models = {"a": shelf.models["a"], "away": replace(shelf.models["away"], size_bytes=sized)}
    host = ModelHost(models, 3, lambda: now, Quarantine(10.0))
    host.preload(["away", "a"])
    assert (sorted(host.nodes), shelf.loads) == (["a"], ["a"])
    with pytest.raises(NodeUnavailable):
        await use(host, "away")
    assert host.failures()["away"].reason == "is it mounted?"
    size, now = 3, 11.0
    await use(host, "away")
    assert (list(host.nodes), host.used_bytes, host.bytes_of("away")) == (["away"], 3, 3)
    await use(host, "a")
    size = 5
    with pytest.raises(NodeError, match="away takes 5 bytes, and a worker has 3"):
        await use(host, "away")
    assert list(host.nodes) == ["a"]


def test_at_the_start_what_fits_is_loaded_in_order() -> None:
    """One that fails does not keep the next from it."""

    def load(name: str) -> None:
        if name == "bad":
            raise OSError("damaged")

    host = ModelHost(Shelf("a", "bad", "b", "c", load=load).models, 2)
    host.preload(["a", "bad", "b", "c"])
    assert sorted(host.nodes) == ["a", "b"]


async def test_a_caller_that_gives_up_leaves_the_load_to_others() -> None:
    """And nothing is pinned for it."""
    shelf = Shelf("a", "b", load=lambda name: threading.Event().wait(0.02))
    host = ModelHost(shelf.models, 1)
    gone = asyncio.ensure_future(use(host, "a"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (await use(host, "b")).name == "b"


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_asked_for_the_budget_holds_and_everybody_is_served(seed: int) -> None:
    """Jobs of two models each, in any order and at the same time, some of which give up."""
    rng, names = Random(seed), ("a", "b", "c", "d", "e")
    host = ModelHost(Shelf(*names).models, 3)

    async def job(number: int) -> None:
        first, second = rng.sample(names, 2)
        await use(host, first, f"job {number}", (second,))
        await use(host, second, f"job {number}")

    jobs = [asyncio.ensure_future(job(number)) for number in range(40)]
    for each in rng.sample(jobs, 5):
        each.cancel()
    async with asyncio.timeout(60):
        while not all(each.done() for each in jobs):
            assert host.used_bytes <= host.max_bytes
            await asyncio.sleep(0.001)
    assert all(each.cancelled() or each.exception() is None for each in jobs)
