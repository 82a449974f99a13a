"""A replica's adapters, fetched from the LoRA node."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.requests import AdapterBytes, AdapterIdentity, FetchAdapter, IdentifyAdapter
from lego_serve.core.scheduling.retry import RetryPolicy
from lego_serve.errors import NodeError, NotFound, RequestError
from lego_serve.models.lora.adapter import Adapter, Pair
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.nodes import BYTES, load

PAIR = Pair(torch.ones(1, 4), torch.ones(4, 1))


class Flaky:
    """A LoRA node whose replica dies a few times."""

    def __init__(self, inner: LoraNode, deaths: int) -> None:
        self.inner, self.deaths = inner, deaths

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        self.deaths -= 1
        if self.deaths >= 0:
            raise NodeLost
        return await self.inner.run(call)


async def test_an_adapter_is_pulled_from_the_replica_that_takes_a_dead_ones_place(spec: ModelSpec, root: Path) -> None:
    """By its name and hash, which a new replica has not heard of."""
    [image] = await load(LoraNode(spec, LoraOptions((root,), BYTES)), "image")
    cache = AdapterCache(
        Flaky(LoraNode(spec, LoraOptions((root,), BYTES)), 3), ("transformer",), BYTES, RetryPolicy(4, (0.01,))
    )
    assert (await cache.take([image]))[0].adapter.sha256 == image.sha256
    with pytest.raises(NodeError, match="could not be fetched"):
        await AdapterCache(
            Flaky(LoraNode(spec, LoraOptions((root,), BYTES)), 9), ("transformer",), BYTES, RetryPolicy(2, (0.01,))
        ).take([image])


async def test_one_adapter_that_cannot_be_had_gives_the_others_back(spec: ModelSpec, root: Path) -> None:
    """Nothing stays pinned."""
    node = LoraNode(spec, LoraOptions((root,), BYTES))
    [image] = await load(node, "image")
    cache = AdapterCache(node, ("transformer",), BYTES)
    cache.release(await cache.take([image]))
    gone = LoadedAdapter(AdapterRequest("gone"), "0" * 64, 10, has_text=False)
    with pytest.raises(NotFound):
        await cache.take([image, gone])
    await asyncio.sleep(0.01)
    assert cache._cache.ledger.pinned_bytes == 0


class FakeLoraNode:
    """Has adapters by name; notes the requests, and answers them when ``gate`` is open."""

    def __init__(self, *names: str) -> None:
        self.adapters = {name: Adapter(name, f"hash of {name}", {"transformer.a": PAIR}) for name in names}
        self.requests: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        self.requests.append(call.request)
        await self.gate.wait()
        found = self.adapters[call.request.name]
        if isinstance(call.request, IdentifyAdapter):
            return NodeResult(AdapterIdentity(found.sha256, found.size_bytes))
        return NodeResult(AdapterBytes(np.frombuffer(found.to_bytes(), np.uint8), 1.5))

    def resolved(self, name: str, *, is_read: bool = True, is_warm: bool = False) -> LoadedAdapter:
        """An adapter as the node resolves a request to it."""
        sha256 = self.adapters[name].sha256 if is_read else ""
        request = AdapterRequest(name)
        size = self.adapters[name].size_bytes
        return LoadedAdapter(request, sha256, size, has_text=False, is_warm=is_warm, version=(1, 2))


async def test_an_adapter_is_fetched_once_for_all_who_take_it_meanwhile() -> None:
    """All get a lease on it, and it is unpinned when all have released theirs."""
    node = FakeLoraNode("a")
    cache = AdapterCache(node, ("transformer",), BYTES)
    node.gate.clear()
    taking = [asyncio.ensure_future(cache.take([node.resolved("a")])) for _ in range(5)]
    await asyncio.sleep(0.01)
    node.gate.set()
    leases = [lease for taken in await asyncio.gather(*taking) for lease in taken]
    assert node.requests == [FetchAdapter("a", "hash of a", ("transformer",))]
    assert {lease.adapter.sha256 for lease in leases} == {"hash of a"}
    assert cache._cache.ledger.pinned_bytes > 0
    cache.release(leases)
    assert cache._cache.ledger.pinned_bytes == 0
    assert cache.kept == ("hash of a",)


async def test_a_lease_says_whether_the_adapter_was_at_hand() -> None:
    """Here, or in the memory of the LoRA node; else what its load took."""
    node = FakeLoraNode("cold", "warm")
    cache = AdapterCache(node, ("transformer",), BYTES)
    cold, warm = await cache.take([node.resolved("cold"), node.resolved("warm", is_warm=True)])
    [again] = await cache.take([node.resolved("cold")])
    assert (cold.hit, cold.load_s >= 1.5) == (False, True)
    assert (warm.hit, warm.load_s) == (True, 0.0)
    assert (again.hit, again.load_s) == (True, 0.0)


async def test_an_adapter_whose_file_is_still_read_is_identified_first() -> None:
    """By its name and the version of its file; only then is it known whether it is here."""
    node = FakeLoraNode("a")
    cache = AdapterCache(node, ("transformer",), BYTES)
    [lease] = await cache.take([node.resolved("a", is_read=False)])
    assert node.requests[0] == IdentifyAdapter("a", (1, 2))
    assert lease.loaded.sha256 == "hash of a"
    assert cache.has([node.resolved("a")])
    assert not cache.has([node.resolved("a"), node.resolved("a", is_read=False)])


async def test_one_content_under_two_names_is_refused() -> None:
    """Before anything is fetched."""
    node = FakeLoraNode("a", "b")
    node.adapters["b"] = node.adapters["a"]
    with pytest.raises(RequestError):
        await AdapterCache(node, ("transformer",), BYTES).take([node.resolved("a"), node.resolved("b")])
    assert node.requests == []
