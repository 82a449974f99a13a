"""The embedding cache, the micro-batcher, and the bytes of a part's weights."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.nodes.messages import TextEncodeOutput
from lego_serve.serving.caches.byte_lru import ByteLru
from lego_serve.serving.nodes.microbatch import MicroBatcher, Turn
from lego_serve.serving.nodes.tensors import drop_weights, weights_bytes

NOTHING = np.zeros(0)


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 40))), st.integers(0, 400))
def test_the_cache_never_holds_more_than_its_bound(puts: list[tuple[str, int]], bound: int) -> None:
    """Whatever is put, the bytes stay within the bound and what is kept is what was put last."""
    cache: ByteLru[TextEncodeOutput] = ByteLru(bound)
    last: dict[str, np.ndarray] = {}
    for prompt, size in puts:
        last[prompt] = np.zeros(size, np.uint8)
        cache.put(prompt, TextEncodeOutput(last[prompt], NOTHING))
        assert 0 <= cache.bytes <= bound
    for prompt, array in last.items():
        kept = cache.get(prompt)
        assert kept is None or kept.tokens is array


def test_the_least_recently_used_prompt_goes_first() -> None:
    """Asking for a prompt keeps it."""
    cache: ByteLru[np.ndarray] = ByteLru(30)
    for prompt in ("a", "b"):
        cache.put(prompt, np.zeros(10, np.uint8))
    cache.get("a")
    cache.put("c", np.zeros(10, np.uint8))
    assert cache.get("b") is None
    assert cache.get("a") is not None


async def test_items_that_wait_share_a_batch() -> None:
    """The first runs alone; those that came meanwhile run together, up to the limit, each with its own result."""
    sizes = []

    def compute(items):
        sizes.append(len(items))
        return [item * 2 for item in items]

    batcher = MicroBatcher(compute, 3)
    assert await asyncio.gather(*(batcher.run(i) for i in range(8))) == [2 * i for i in range(8)]
    assert max(sizes) <= 3
    assert sum(sizes) == 8


async def test_a_failing_batch_fails_its_items_and_no_others() -> None:
    """The next batch runs as if nothing had been."""

    def compute(items):
        if "bad" in items:
            raise ValueError("bad")
        return items

    batcher = MicroBatcher(compute, 1)
    results = await asyncio.gather(*(batcher.run(i) for i in ("a", "bad", "b")), return_exceptions=True)
    assert results[0] == "a"
    assert isinstance(results[1], ValueError)
    assert results[2] == "b"


async def test_an_item_nobody_waits_for_is_not_computed() -> None:
    """A cancelled wait drops its item if it has not started."""
    seen = []

    def compute(items):
        seen.extend(items)
        return items

    batcher = MicroBatcher(compute, 1)
    first, second = (asyncio.ensure_future(batcher.run(i)) for i in (1, 2))
    await asyncio.sleep(0)
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    await asyncio.sleep(0.05)
    assert seen == [1]


async def test_items_of_tenants_take_turns_by_their_cost() -> None:
    """One of beta's behind twenty of alpha's is in the next batch; alpha's large one makes up for many of beta's."""
    batches: list[list[str]] = []

    def compute(items):
        batches.append(list(items))
        return items

    batcher = MicroBatcher(compute, 1)
    alphas = [asyncio.ensure_future(batcher.run(f"a{n}", Turn("alpha", 3.0))) for n in range(4)]
    betas = [asyncio.ensure_future(batcher.run(f"b{n}", Turn("beta", 1.0))) for n in range(4)]
    await asyncio.gather(*alphas, *betas)
    assert [batch[0] for batch in batches] == ["a0", "b0", "b1", "b2", "a1", "b3", "a2", "a3"]


@dataclass(slots=True)
class Packed:
    """A layer whose weights are no module's."""

    weight: torch.Tensor
    name: str = "packed"


@dataclass
class Part:
    """A part of a model, of modules and of others, in circles."""

    module: torch.nn.Module
    layers: dict[str, tuple[Packed, ...]]
    owner: list[object] = field(default_factory=list)


def test_weights_are_counted_once_wherever_they_are() -> None:
    """In modules, in layers that are none, in containers; a view holds what it is a view of."""
    weight = torch.zeros(4, 8)
    part = Part(torch.nn.Linear(2, 3), {"a": (Packed(weight), Packed(weight[1:])), "b": (Packed(torch.zeros(5)),)})
    part.owner.append(part)
    assert weights_bytes(part) == 4 * (2 * 3 + 3 + 4 * 8 + 5)


def test_dropped_weights_take_nothing_though_who_held_them_is_still_there() -> None:
    """In modules and in layers that are none; a tensor that is no weight of the part stays as it is."""
    table = torch.zeros(5)
    modules = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    part = Part(modules, {"a": (Packed(torch.zeros(4, 8)), Packed(table.clone()))})
    part.owner.append(part)
    drop_weights(part)
    assert weights_bytes(part) == 0
    assert table.numel() == 5
