"""Large arrays as references: which stay behind, and what becomes of a message whose arrays are lost."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from ray.exceptions import OwnerDiedError

from lego_serve.core.nodes.messages import TextEncodeOutput
from lego_serve.core.values import Ref, bytes_of, refs_of
from lego_serve.serving.cluster import references
from lego_serve.serving.cluster.references import RefsLost, keep_arrays, read_arrays


class FakeStore:
    """An object store that can lose what it has."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def put(self, value: Any) -> "Handle":
        """Keep an array."""
        handle = Handle(self, f"{len(self.arrays)}")
        self.arrays[handle.name] = value
        return handle


class Handle:
    """Stands for Ray's ObjectRef."""

    def __init__(self, store: FakeStore, name: str) -> None:
        self.store, self.name = store, name

    def hex(self) -> str:
        """Its id."""
        return self.name

    def __await__(self) -> Any:
        async def get() -> Any:
            await asyncio.sleep(0)
            if self.name not in self.store.arrays:
                raise OwnerDiedError(self.name, "owner", "site")
            return self.store.arrays[self.name]

        return get().__await__()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """In place of Ray's."""
    store = FakeStore()
    monkeypatch.setattr(references.ray, "put", store.put)
    return store


LARGE, SMALL = np.arange(100_000, dtype=np.float32), np.ones(3, np.float32)


async def test_large_arrays_stay_behind_and_small_ones_go_along(store: FakeStore) -> None:
    """What is read back is what was kept, wherever it lay in the message."""
    message = (TextEncodeOutput(LARGE, SMALL), {"other": LARGE[::2]})
    kept = await keep_arrays(message, 1000)
    assert [ref.size_bytes for ref in refs_of(kept)] == [LARGE.nbytes, LARGE.nbytes // 2]
    assert bytes_of(kept) == SMALL.nbytes
    back = await read_arrays(kept)
    assert np.array_equal(back[0].tokens, LARGE)
    assert back[0].pooled is SMALL
    assert np.array_equal(back[1]["other"], LARGE[::2])


async def test_a_message_without_large_arrays_is_itself(store: FakeStore) -> None:
    """Nothing is copied, and the store is not asked."""
    message = TextEncodeOutput(SMALL, SMALL)
    assert await keep_arrays(message) is message
    assert await read_arrays(message) is message
    assert store.arrays == {}


async def test_the_event_loop_runs_while_an_array_is_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put that waits for the event loop ends, since it runs in another thread."""
    loop, store = asyncio.get_running_loop(), FakeStore()
    turned = threading.Event()

    def put(array: np.ndarray) -> object:
        loop.call_soon_threadsafe(turned.set)
        assert turned.wait(60)
        return store.put(array)

    monkeypatch.setattr(references.ray, "put", put)
    assert isinstance((await keep_arrays(TextEncodeOutput(LARGE, SMALL), 1000)).tokens, Ref)


async def test_lost_arrays_are_named(store: FakeStore) -> None:
    """All of them, and none that is still there."""
    kept = await keep_arrays(TextEncodeOutput(LARGE, LARGE[::2]), 1000)
    assert isinstance(kept.tokens, Ref)
    del store.arrays[kept.tokens.id]
    with pytest.raises(RefsLost) as lost:
        await read_arrays(kept)
    assert lost.value.ids == {kept.tokens.id}


async def test_messages_read_at_the_same_time_do_not_touch_each_other(store: FakeStore) -> None:
    """Forty at once, every fourth with a lost array: the others get the arrays that were theirs."""
    kept = [await keep_arrays(TextEncodeOutput(LARGE + number, SMALL), 1000) for number in range(40)]
    for message in kept[::4]:
        assert isinstance(message.tokens, Ref)
        del store.arrays[message.tokens.id]
    outcomes = await asyncio.gather(*map(read_arrays, kept), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 4 == 0:
            assert isinstance(outcome, RefsLost)
        else:
            assert isinstance(outcome, TextEncodeOutput)
            assert np.array_equal(outcome.tokens, LARGE + number)


async def test_an_array_that_is_held_twice_is_read_once(store: FakeStore) -> None:
    """Both places get the same object."""
    kept = await keep_arrays(TextEncodeOutput(LARGE, SMALL), 1000)
    one, other = await read_arrays((kept, kept))
    assert one.tokens is other.tokens
