"""Which evicted nodes come back from host memory and which from their files, with nodes that are nothing but a name."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.job import ModelMove
from lego_serve.errors import CheckpointError
from lego_serve.serving.workers.host import ModelHost
from tests.support.cluster.shelves import Name, NameCopy, Shelf, use


def ticking() -> Callable[[], float]:
    """A clock on which every look takes a second."""
    return map(float, itertools.count()).__next__


def facts(host: ModelHost[Name]) -> list[tuple[str, str, bool, bool]]:
    """What was loaded and evicted since it was asked last, and by way of host memory or not."""
    return [(move.kind, move.model, move.via_host, move.leaves_host) for move in host.take_moves()]


async def test_an_evicted_node_comes_back_from_host_memory_and_its_files_are_read_once() -> None:
    """And says so, with the seconds that its call waited."""
    shelf = Shelf("a", "b", size=3, device=True)
    host = ModelHost(shelf.models, 3, ticking(), host_bytes=6)
    for name in ("a", "b", "a"):
        await use(host, name)
    assert (shelf.loads, [copy.name for copy in shelf.restored]) == (["a", "b"], ["a"])
    assert facts(host) == [
        ("load", "a", False, False),
        ("evict", "a", True, False),
        ("load", "b", False, False),
        ("evict", "b", True, False),
        ("load", "a", True, False),
    ]
    assert (host.copies.used_bytes, host.copies.bytes_of("a"), host.copies.bytes_of("b")) == (3, 0, 3)
    async with host.lease("b", None, ()) as lease:
        assert lease.load_s > 0


async def test_beyond_its_bytes_the_copy_used_longest_ago_is_dropped_and_that_is_told() -> None:
    """Its memory goes before another copy is made."""
    shelf = Shelf("a", "b", "c", size=3, device=True)
    host = ModelHost(shelf.models, 3, ticking(), host_bytes=3)
    first = await use(host, "a")
    await use(host, "b")
    assert first.copy is not None
    assert not first.copy.is_dropped
    host.take_moves()
    await use(host, "c")
    assert first.copy.is_dropped
    assert host.take_moves()[:2] == (
        ModelMove("b", 3, evicted_for="c", via_host=True),
        ModelMove("a", 3, evicted_for="b", leaves_host=True),
    )
    assert (host.copies.dropped_of("a"), host.copies.used_bytes) == (1, 3)
    await use(host, "a")
    assert shelf.loads == ["a", "b", "c", "a"]


@pytest.mark.parametrize(("device", "host_bytes"), [(False, 9), (True, 0), (True, 2)])
async def test_nothing_is_kept_of_a_node_on_the_cpu_nor_without_room(device: bool, host_bytes: int) -> None:
    """It is closed, and read from its files again."""
    shelf = Shelf("a", "b", size=3, device=device)
    host = ModelHost(shelf.models, 3, ticking(), host_bytes=host_bytes)
    first = await use(host, "a")
    for name in ("b", "a"):
        await use(host, name)
    assert (first.is_closed, first.copy, shelf.restored, host.copies.used_bytes) == (True, None, [], 0)
    assert shelf.loads == ["a", "b", "a"]
    assert not any(via_host for _, _, via_host, _ in facts(host))


async def test_weights_whose_files_were_replaced_are_read_anew() -> None:
    """The copy gives its memory back; the state of files is that before they were read."""
    shelf, states = Shelf("a", "b", size=3, device=True), iter(["old", "new", "new"])
    models = shelf.models | {"a": replace(shelf.models["a"], files=states.__next__)}
    host = ModelHost(models, 3, ticking(), host_bytes=9)
    first = await use(host, "a")
    for name in ("b", "a"):
        await use(host, name)
    assert shelf.loads == ["a", "b", "a"]
    assert first.copy is not None
    assert first.copy.is_dropped
    for name in ("b", "a"):
        await use(host, name)
    assert shelf.loads == ["a", "b", "a"], "these are the new ones"


@pytest.mark.parametrize("state", [lambda: None, lambda: 1 / 0])
async def test_files_whose_replacement_might_not_show_have_no_copies(state: Callable[[], object]) -> None:
    """Nor those of which nothing can be told."""
    shelf = Shelf("a", "b", size=3, device=True)
    models = shelf.models | {"a": replace(shelf.models["a"], files=state)}
    host = ModelHost(models, 3, ticking(), host_bytes=9)
    host.preload(("a",))
    for name in ("b", "a"):
        await use(host, name)
    assert shelf.loads == ["a", "b", "a"]
    assert host.copies.bytes_of("b") == 3


async def test_what_was_loaded_at_the_start_is_kept_too() -> None:
    """As what was used longest ago."""
    shelf = Shelf("a", "b", "c", size=3, device=True)
    host = ModelHost(shelf.models, 3, ticking(), host_bytes=6)
    host.preload(("a",))
    for name in ("b", "a"):
        await use(host, name)
    assert shelf.loads == ["a", "b"]


async def test_weights_that_do_not_go_to_host_memory_make_room_all_the_same() -> None:
    """A machine may have fewer bytes than its worker was given."""

    class Heavy(Name):
        """One that no memory holds."""

        def to_host(self) -> NameCopy:
            """It does not."""
            raise MemoryError("no")

    shelf = Shelf("b", device=True)
    heavy = [Heavy("a", 1), Heavy("a", 1)]
    models = shelf.models | {"a": replace(shelf.models["b"], load=lambda copy: heavy.pop())}
    host = ModelHost(models, 1, ticking(), host_bytes=9)
    first = await use(host, "a")
    assert (await use(host, "b")).name == "b"
    assert (first.is_closed, host.copies.used_bytes) == (True, 0)
    assert (await use(host, "a")).name == "a"


async def test_a_copy_that_does_not_load_is_used_once() -> None:
    """The next try reads the files."""
    shelf = Shelf("b", device=True)
    tries: list[bool] = []

    def load(copy: object) -> Name:
        tries.append(copy is not None)
        if copy is not None:
            raise CheckpointError("no room on the device")
        return Name("a", 1)

    now = 0.0
    models = shelf.models | {"a": replace(shelf.models["b"], load=load)}
    host = ModelHost(models, 1, lambda: now, host_bytes=9)
    await use(host, "a")
    await use(host, "b")
    with pytest.raises(Exception, match="held back"):
        await use(host, "a")
    now = 1000.0
    await use(host, "a")
    assert tries == [False, True, False]


@given(
    st.lists(st.sampled_from("abcdef"), max_size=30),
    st.integers(3, 6),
    st.integers(0, 9),
)
def test_neither_budget_is_ever_exceeded_and_every_load_says_truly_where_it_came_from(
    names: list[str], budget: int, host_bytes: int
) -> None:
    """Through any requests; what is on the device is not in host memory, and what is dropped takes nothing."""

    async def run() -> None:
        sizes = dict(zip("abcdef", (1, 2, 3, 1, 2, 3), strict=True))
        shelves = {name: Shelf(name, size=size, device=True) for name, size in sizes.items()}
        models = {name: shelf.models[name] for name, shelf in shelves.items()}
        host, seen = ModelHost(models, budget, ticking(), host_bytes=host_bytes), list[Name]()
        for name in names:
            expected = host.copies.bytes_of(name) > 0
            was_there = name in host.nodes
            seen.append(await use(host, name))
            loads = [move for move in host.take_moves() if move.kind == "load"]
            assert [move.via_host for move in loads] == ([] if was_there else [expected])
            kept = {each for each in sizes if host.copies.bytes_of(each)}
            assert not kept & set(host.nodes)
            assert host.copies.used_bytes == sum(sizes[each] for each in kept) <= host_bytes
            assert host.used_bytes <= budget
        restored = [copy for shelf in shelves.values() for copy in shelf.restored]
        copies = {id(node.copy): node.copy for node in seen if node.copy is not None}.values()
        alive = [copy for copy in copies if not copy.is_dropped and copy not in restored]
        assert sum(copy.size_bytes for copy in alive) == host.copies.used_bytes

    asyncio.run(run())
