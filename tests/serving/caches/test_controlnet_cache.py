"""ControlNets that are loaded when asked for, in use by name, and kept beyond that within so many bytes."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lego_serve.errors import CheckpointError
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.controlnet_cache import ControlNetCache
from tests.support.clocks import HandClock

BYTES = 100


class Loads:
    """Loads nothing but notes what it was asked for; ``bad`` fails.  Each load takes a second of its clock."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.clock = HandClock()
        self.wait: Callable[[], object] = lambda: None

    def __call__(self, spec: ModelSpec, base: ModelSpec) -> Any:
        self.wait()
        self.clock.now_s += 1.0
        self.names.append(spec.name)
        if spec.name == "bad":
            raise CheckpointError("damaged")
        return f"{spec.name} {len(self.names)}"


@pytest.fixture
def loads() -> Loads:
    """What is loaded, in order."""
    return Loads()


def controlnet_cache(folder: Path, places: int, sources: dict[str, ControlNetSource], loads: Loads) -> ControlNetCache:
    local = {}
    for name in ("a", "b", "c", "bad"):
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "diffusion_pytorch_model.safetensors").write_bytes(b"0" * BYTES)
        local[name] = ModelSpec(name, str(place))
    return ControlNetCache(ModelSpec("base", str(folder)), local, places * BYTES, sources, loads, loads.clock)


async def test_a_controlnet_is_among_the_sources_while_it_is_used(tmp_path: Path, loads: Loads) -> None:
    """It is there from the taking until all who took it have given it back, and kept for the next."""
    sources: dict[str, ControlNetSource] = {}
    nets = controlnet_cache(tmp_path, 2, sources, loads)
    first, second = await nets.take(["a"]), await nets.take(["a", "elsewhere"])
    assert list(sources) == ["a"]
    nets.release(first)
    assert list(sources) == ["a"]
    nets.release(second)
    assert not sources
    again = await nets.take(["a"])
    nets.release(again)
    assert loads.names == ["a"]
    assert [(lease.hit, lease.size_bytes) for lease in (*first, *second, *again)] == [
        (False, BYTES), (True, BYTES), (True, BYTES),
    ]  # fmt: skip


async def test_what_is_likely_to_be_asked_for_is_loaded_before_it_is(tmp_path: Path, loads: Loads) -> None:
    """One that had no room while another was in use is there soon after, and nobody waits for it."""
    nets = controlnet_cache(tmp_path, 1, {}, loads)
    leases = await nets.take(["a"])
    for _ in range(6):
        nets.release(await nets.take(["b"]))
    assert "b" not in nets
    nets.release(leases)
    nets.release(await nets.take(["elsewhere"]))  # whoever comes next
    async with asyncio.timeout(60):
        while "b" not in nets:
            await asyncio.sleep(0.01)
    again = await nets.take(["b"])
    assert [lease.hit for lease in again] == [True]
    nets.release(again)


async def test_what_is_used_without_room_is_not_kept(tmp_path: Path, loads: Loads) -> None:
    """Those in use stay whatever the budget; one that had no room is loaded anew the next time."""
    sources: dict[str, ControlNetSource] = {}
    nets = controlnet_cache(tmp_path, 1, sources, loads)
    leases = await nets.take(["a", "b"])
    assert set(sources) == {"a", "b"}
    nets.release(leases)
    assert ("a" in nets) + ("b" in nets) == 1
    kept, other = ("a", "b") if "a" in nets else ("b", "a")
    nets.release(await nets.take([kept]))
    nets.release(await nets.take([other]))
    assert loads.names[2:] == [other]


async def test_one_in_use_is_not_loaded_twice(tmp_path: Path, loads: Loads) -> None:
    """Requests at the same time share a load, and later ones what is in use though it is not kept."""
    sources: dict[str, ControlNetSource] = {}
    nets = controlnet_cache(tmp_path, 0, sources, loads)
    both = await asyncio.gather(nets.take(["a"]), nets.take(["a"]))
    third = await nets.take(["a"])
    assert loads.names == ["a"]
    for leases in (*both, third):
        nets.release(leases)
    assert not sources


async def test_a_failed_load_leaves_nothing_behind(tmp_path: Path, loads: Loads) -> None:
    """What was loaded beside it is given back."""
    sources: dict[str, ControlNetSource] = {}
    nets = controlnet_cache(tmp_path, 2, sources, loads)
    with pytest.raises(CheckpointError, match="damaged"):
        await nets.take(["a", "bad"])
    assert not sources
    leases = await nets.take(["b", "c"])
    assert set(sources) == {"b", "c"}  # both places are theirs: which of all stays afterwards is the ledger's to say
    nets.release(leases)


async def test_slow_loads_go_side_by_side(tmp_path: Path, loads: Loads) -> None:
    """Two ControlNets of a request take the storage's time once: neither is loaded before both have begun."""
    nets = controlnet_cache(tmp_path, 2, {}, loads)
    both = threading.Barrier(2)
    loads.wait = lambda: both.wait(60)
    leases = await nets.take(["a", "b"])
    nets.release(leases)
    assert sorted(loads.names) == ["a", "b"]
    assert all(not lease.hit and lease.load_s >= 1.0 for lease in leases)
