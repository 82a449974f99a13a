"""The LoRA node: which adapters it finds, refuses, profiles and loads ahead."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
import torch

from lego_serve.core.addons import LoadedAdapter
from lego_serve.errors import InvalidAdapter, NotFound
from lego_serve.models.lora.checkpoint import AdapterFile
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache
from lego_serve.serving.nodes import lora as adapters_node
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.clocks import HandClock
from tests.support.lora.adapters import diffusers_names, products, saved
from tests.support.nodes import BYTES, load, resolved

STORAGE_S = 1.0


class Storage(HandClock):
    """Takes a second of its clock for every file, while the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self._read = AdapterRegistry.read

    def read(self, registry: AdapterRegistry, name: str) -> AdapterFile:
        """In place of the registry's."""
        assert self.gate.wait(60)
        self.now_s += STORAGE_S
        return self._read(registry, name)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """What all files are read from, whole; their headers come without it."""
    storage = Storage()
    monkeypatch.setattr(AdapterRegistry, "read", lambda registry, name: storage.read(registry, name))
    return storage


async def test_it_tells_what_adapters_are_before_they_have_come(spec: ModelSpec, root: Path, slow: Storage) -> None:
    """However long their storage takes; the second time they are there, whatever format they are in."""
    node = LoraNode(spec, LoraOptions((root,), BYTES), slow)
    slow.gate.clear()
    image, both = await asyncio.wait_for(resolved(node, "image", "both"), 60)
    slow.gate.set()
    assert (image.has_text, both.has_text, image.is_warm) == (False, True, False)
    assert image.has_denoiser
    assert both.has_denoiser
    cache = AdapterCache(node, ("transformer",), BYTES)
    taken = await cache.take([image, both])
    assert [one.adapter.sha256 for one in taken] == [one.loaded.sha256 for one in taken]
    assert all(path.startswith("transformer.") for one in taken for path in one.adapter.pairs)
    assert all(not one.hit and one.load_s >= STORAGE_S for one in taken)
    assert (await load(node, "both"))[0].is_warm
    again = await cache.take([both])
    assert (again[0].hit, again[0].load_s) == (True, 0.0)
    cache.release([*taken, *again])


@pytest.mark.parametrize("name", ["nobody", "../image", "sub/other", "IMAGE", "a" * 65, "image.safetensors", ""])
async def test_an_unknown_name_is_not_found(spec: ModelSpec, root: Path, name: str) -> None:
    """And never taken for a path."""
    with pytest.raises(NotFound) as missing:
        await load(LoraNode(spec, LoraOptions((root,), BYTES)), name)
    assert missing.value.code == "adapter_not_found"
    assert missing.value.param == (f"lora[{name}]" if name == "nobody" else "lora")


async def test_a_damaged_file_and_one_for_another_model_are_refused(spec: ModelSpec, root: Path) -> None:
    """At once, and the next request is served."""
    (root / "zip.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    layer = "transformer.transformer_blocks.0.attn.to_q"
    wrong = {f"{layer}.lora_A.weight": torch.ones(2, 7), f"{layer}.lora_B.weight": torch.ones(7, 2)}
    saved(wrong, root, "wrong")
    node = LoraNode(spec, LoraOptions((root,), BYTES))
    for name in ("zip", "wrong"):
        with pytest.raises(InvalidAdapter, match=f"Adapter {name}"):
            await load(node, name)
    assert await load(node, "image")


async def test_a_file_that_changes_is_another_adapter(spec: ModelSpec, base: BaseLayers, root: Path) -> None:
    """Requests that come then get the new one; one that was resolved before is refused rather than given it."""
    node = LoraNode(spec, LoraOptions((root,), 0))
    [before] = await load(node, "image")
    saved(diffusers_names(products(base, 7, only="attn.to_q")), root, "image")
    [after] = await load(node, "image")
    assert before.sha256 != after.sha256
    fresh = LoraNode(spec, LoraOptions((root,), 0))
    with pytest.raises(InvalidAdapter, match="changed"):
        await AdapterCache(fresh, ("transformer",), BYTES).take([before])
    cache = AdapterCache(fresh, ("transformer",), 0)  # where nothing is kept it is used all the same
    [taken] = await cache.take([after])
    assert not taken.is_pinned
    cache.release([taken])


async def test_a_profile_says_how_late_an_adapter_may_come(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """Where early starts are allowed, once the file is known to be the very one it was made of; broken, it is none."""
    [image] = await load(LoraNode(spec, LoraOptions((root,), BYTES)), "image")
    profile = {"sha256": image.sha256, "ratio": 0.25}
    broken = [json.dumps(profile | {"sha256": "x"}), json.dumps(profile | {"ratio": 10**400}), "{", "[" * 100_000]
    broken.append(json.dumps(profile | {"ratio": float("nan")}))
    for text, ratio in ((json.dumps(profile), 0.25), *((text, 0.0) for text in broken)):
        (root / "image.profile.json").write_text(text)
        node = LoraNode(spec, LoraOptions((root,), BYTES, early_start=True))
        assert [(await load(node, "image"))[0].early_ratio for _ in range(2)] == [0, ratio]
        assert (await read_twice(LoraNode(spec, LoraOptions((root,), BYTES)))).early_ratio == 0
    (tmp_path / "image.profile.json").write_text(json.dumps(profile))
    elsewhere = LoraNode(spec, LoraOptions((root,), BYTES, early_start=True, profiles=tmp_path))
    assert (await read_twice(elsewhere)).early_ratio == 0.25


async def test_a_profile_that_is_measured_anew_holds_from_the_next_request_on(spec: ModelSpec, root: Path) -> None:
    """Also for an adapter that has been read long ago."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, early_start=True))
    image = await read_twice(node)
    for ratio in (0.25, 0.5):
        (root / "image.profile.json").write_text(json.dumps({"sha256": image.sha256, "ratio": ratio}))
        assert (await load(node, "image"))[0].early_ratio == ratio


async def read_twice(node: LoraNode) -> LoadedAdapter:
    """What `image` is when it is asked for the second time."""
    await load(node, "image")
    return (await load(node, "image"))[0]


async def test_what_is_likely_to_be_asked_for_is_loaded_before_it_is(
    spec: ModelSpec, base: BaseLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: Storage
) -> None:
    """Two small ones make way for a large one.  When the first comes back the other is fetched too, unasked."""
    monkeypatch.setattr(adapters_node, "LINGER_S", 0.0)
    for seed, (name, rank) in enumerate((("a", 2), ("b", 2), ("large", 4))):
        saved(diffusers_names(products(base, seed, rank=rank, only="attn.to_q")), tmp_path, name)
    known = {
        one.request.name: one for one in await load(LoraNode(spec, LoraOptions((tmp_path,), BYTES)), "a", "b", "large")
    }
    node = LoraNode(spec, LoraOptions((tmp_path,), known["large"].size_bytes), slow)

    async def ask(name: str) -> set[str]:
        """The names of what is there when an asking has come to an end."""
        await load(node, name)
        while node._cache._loads:
            await asyncio.sleep(0.01)
        return {other for other, one in known.items() if one.sha256 in node._cache}

    for name in "abab":
        there = await ask(name)
    assert there == {"a", "b"}
    for name, until in (("large", {"large"}), ("a", {"a"})):
        for _ in range(12):
            if (there := await ask(name)) >= until:
                break
        assert there == until
    assert await ask("a") == {"a", "b"}
    assert (await load(node, "b"))[0].is_warm
