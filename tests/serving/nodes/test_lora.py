"""The LoRA node: what it finds, refuses, hands out and registers; and a replica's shelf that pulls from it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.errors import (
    CapacityError,
    CheckpointError,
    InvalidAdapter,
    LegoError,
    NodeError,
    NotFound,
    RequestError,
)
from lego_serve.models.lora.keys import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches import adapter_cache
from lego_serve.serving.caches.adapter_cache import AdapterCache
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes import lora as adapters_node
from lego_serve.serving.nodes.lora import LoraNode
from tests.models.lora.test_checkpoint import BAD
from tests.models.lora.test_keys import FAULTS, bad
from tests.support.adapters import diffusers_names, kohya_names, products, saved

BYTES = 1 << 20


@pytest.fixture
def root(base: BaseLayers, tmp_path: Path) -> Path:
    """A folder of two adapters, one with a part for text encoders."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    saved(diffusers_names(products(base, 1, only="attn.to_q")), root, "image")
    saved(kohya_names(products(base, 2)), root, "both")
    saved(diffusers_names(products(base, 3, only="attn.to_k")), root / "sub", "other")
    return root


async def resolved(node: LoraNode, *names: str) -> tuple[LoadedAdapter, ...]:
    """What the node says at once that these are.  Raises its error."""
    answer = await node.run(NodeCall("load_adapters", {"lora": tuple(AdapterRequest(name) for name in names)}))
    if answer.error is not None:
        raise answer.error
    value: Any = answer.value
    return value["adapters"]


async def load(node: LoraNode, *names: str) -> tuple[LoadedAdapter, ...]:
    """What they are when their files have been read.  Raises the node's error."""
    return tuple(await AdapterCache(node, (), 0).identified(await resolved(node, *names)))


async def order(node: LoraNode, verb: str, name: str = "", path: str = "") -> Any:
    """An operator's order.  Raises its error."""
    answer = await node.run(NodeCall(f"{verb}_adapter", {"name": name, "path": path}))
    if answer.error is not None:
        raise answer.error
    return answer.value


async def test_it_tells_what_adapters_are_before_they_have_come(spec: ModelSpec, root: Path) -> None:
    """However long their storage takes; the second time they are there, whatever format they are in."""
    node = LoraNode(spec, [root], BYTES, storage_s=0.5)
    image, both = await asyncio.wait_for(resolved(node, "image", "both"), 0.45)
    assert (image.has_text, both.has_text, image.is_warm) == (False, True, False)
    assert image.has_denoiser
    assert both.has_denoiser
    shelf = AdapterCache(node, ("transformer",), BYTES)
    taken = await shelf.take([image, both])
    assert [one.adapter.sha256 for one in taken] == [one.loaded.sha256 for one in taken]
    assert all(path.startswith("transformer.") for one in taken for path in one.adapter.pairs)
    assert all(not one.hit and one.load_s >= 0.5 for one in taken)
    assert (await load(node, "both"))[0].is_warm
    again = await shelf.take([both])
    assert (again[0].hit, again[0].load_s) == (True, 0.0)
    shelf.release([*taken, *again])


@pytest.mark.parametrize("name", ["nobody", "../image", "sub/other", "IMAGE", "a" * 65, "image.safetensors", ""])
async def test_an_unknown_name_is_not_found(spec: ModelSpec, root: Path, name: str) -> None:
    """And never taken for a path."""
    with pytest.raises(NotFound) as missing:
        await load(LoraNode(spec, [root], BYTES), name)
    assert missing.value.code == "adapter_not_found"
    assert missing.value.param == (f"lora[{name}]" if name == "nobody" else "lora")


async def test_a_damaged_file_and_one_for_another_model_are_refused(spec: ModelSpec, root: Path) -> None:
    """At once, and the next request is served."""
    (root / "zip.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    layer = "transformer.transformer_blocks.0.attn.to_q"
    wrong = {f"{layer}.lora_A.weight": torch.ones(2, 7), f"{layer}.lora_B.weight": torch.ones(7, 2)}
    saved(wrong, root, "wrong")
    node = LoraNode(spec, [root], BYTES)
    for name in ("zip", "wrong"):
        with pytest.raises(InvalidAdapter, match=f"Adapter {name}"):
            await load(node, name)
    assert await load(node, "image")


async def test_a_file_that_changes_is_another_adapter(spec: ModelSpec, base: BaseLayers, root: Path) -> None:
    """Requests that come then get the new one; one that was resolved before is refused rather than given it."""
    node = LoraNode(spec, [root], 0)
    [before] = await load(node, "image")
    saved(diffusers_names(products(base, 7, only="attn.to_q")), root, "image")
    [after] = await load(node, "image")
    assert before.sha256 != after.sha256
    fresh = LoraNode(spec, [root], 0)
    with pytest.raises(InvalidAdapter, match="changed"):
        await AdapterCache(fresh, ("transformer",), BYTES).take([before])
    shelf = AdapterCache(fresh, ("transformer",), 0)  # where nothing is kept it is used all the same
    [taken] = await shelf.take([after])
    assert not taken.is_pinned
    shelf.release([taken])


async def test_an_operator_registers_files_under_the_roots(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """By paths without tricks, up to the limit, under names that are free; what is in the registry can be removed."""
    node = LoraNode(spec, [root], BYTES, registry_limit=1)
    shutil.copy(root / "sub" / "other.safetensors", tmp_path / "outside.safetensors")
    (root / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (root / "way").symlink_to(tmp_path)
    (root / "bad.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    (root / "all.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    for path in (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "sub/../sub/other.safetensors",
        "%2e%2e/outside.safetensors",
        "sub\\other.safetensors",
        "sub/other.safetensors\x00",
        "~/a.safetensors",
        "file://a.safetensors",
        "link.safetensors",
        "way/outside.safetensors",
        "bad.safetensors",
        "all.zip",
        "none.safetensors",
        "sub",
        "",
    ):
        with pytest.raises(LegoError) as refused:
            await order(node, "register", "mine", path)
        assert 400 <= refused.value.status < 500, path
        assert str(tmp_path) not in refused.value.message
    with pytest.raises(LegoError, match="of this name"):
        await order(node, "register", "image", "sub/other.safetensors")
    with pytest.raises(LegoError, match="a-z"):
        await order(node, "register", "../mine", "sub/other.safetensors")
    said = await order(node, "register", "mine", "sub/other.safetensors")
    assert (await load(node, "mine"))[0].sha256 == said["sha256"]
    with pytest.raises(CapacityError) as full:
        await order(node, "register", "more", "sub/other.safetensors")
    assert (full.value.status, full.value.code) == (429, "registry_full")
    listed = (await order(node, "list"))["adapters"]
    assert {name: about["registered"] for name, about in listed.items()} == {
        "image": False, "both": False, "bad": False, "mine": True,
    }  # fmt: skip
    await order(node, "remove", "mine")
    with pytest.raises(NotFound):
        await load(node, "mine")
    with pytest.raises(NotFound):
        await order(node, "remove", "image")


async def test_what_was_registered_outlives_the_patcher(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """Its successor serves it, still looks where its path leads, and keeps what was removed removed."""
    file = tmp_path / "state" / "registered.json"

    def started() -> LoraNode:
        return LoraNode(spec, [root], BYTES, registry_limit=2, registry=str(file))

    first = started()
    said = await order(first, "register", "mine", "sub/other.safetensors")
    await order(first, "register", "brief", "sub/other.safetensors")
    await order(first, "remove", "brief")
    second = started()
    assert (await load(second, "mine"))[0].sha256 == said["sha256"]
    assert {name for name, about in (await order(second, "list"))["adapters"].items() if about["registered"]} == {
        "mine"
    }
    with pytest.raises(LegoError, match="of this name"):
        await order(second, "register", "mine", "sub/other.safetensors")
    shutil.move(root / "sub" / "other.safetensors", tmp_path / "outside.safetensors")
    (root / "sub" / "other.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(NotFound) as gone:
        await load(started(), "mine")
    assert (gone.value.param, gone.value.code) == ("lora[mine]", "adapter_not_found")
    file.write_text("[]")
    with pytest.raises(CheckpointError, match="holds no registered adapters"):
        started()


async def test_a_registration_that_cannot_be_kept_is_none(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """It fails as the server's fault and leaves nothing, rather than be forgotten later."""
    node = LoraNode(spec, [root], BYTES, registry_limit=1, registry=str(tmp_path / "state"))
    (tmp_path / "state" / "in the way").mkdir(parents=True)
    with pytest.raises(NodeError) as failed:
        await order(node, "register", "mine", "sub/other.safetensors")
    assert failed.value.code == "registry_not_written"
    with pytest.raises(NotFound):
        await load(node, "mine")


async def test_a_profile_says_how_late_an_adapter_may_come(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """Where early starts are allowed, once the file is known to be the very one it was made of; broken, it is none."""
    [image] = await load(LoraNode(spec, [root], BYTES), "image")
    profile = {"sha256": image.sha256, "ratio": 0.25}
    broken = [json.dumps(profile | {"sha256": "x"}), json.dumps(profile | {"ratio": 10**400}), "{", "[" * 100_000]
    broken.append(json.dumps(profile | {"ratio": float("nan")}))
    for text, ratio in ((json.dumps(profile), 0.25), *((text, 0.0) for text in broken)):
        (root / "image.profile.json").write_text(text)
        node = LoraNode(spec, [root], BYTES, early_start=True)
        assert [(await load(node, "image"))[0].early_ratio for _ in range(2)] == [0, ratio]
        assert (await read_twice(LoraNode(spec, [root], BYTES))).early_ratio == 0
    (tmp_path / "image.profile.json").write_text(json.dumps(profile))
    elsewhere = LoraNode(spec, [root], BYTES, early_start=True, profiles=str(tmp_path))
    assert (await read_twice(elsewhere)).early_ratio == 0.25


async def read_twice(node: LoraNode) -> LoadedAdapter:
    """What `image` is when it is asked for the second time."""
    await load(node, "image")
    return (await load(node, "image"))[0]


async def test_what_is_likely_to_be_asked_for_is_loaded_before_it_is(
    spec: ModelSpec, base: BaseLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two small ones make way for a large one.  When the first comes back the other is fetched too, unasked."""
    monkeypatch.setattr(adapters_node, "LINGER_S", 0.0)
    for seed, (name, rank) in enumerate((("a", 2), ("b", 2), ("large", 4))):
        saved(diffusers_names(products(base, seed, rank=rank, only="attn.to_q")), tmp_path, name)
    known = {one.ask.name: one for one in await load(LoraNode(spec, [tmp_path], BYTES), "a", "b", "large")}
    node = LoraNode(spec, [tmp_path], known["large"].size_bytes, storage_s=0.1)

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


async def test_no_bad_adapter_gets_past_the_patcher(spec: ModelSpec, base: BaseLayers, root: Path) -> None:
    """Asked for or registered it is the caller's fault, named; no byte of it is kept or handed out."""
    (root / "more").mkdir()
    node = LoraNode(spec, [root], BYTES, registry_limit=9)
    for kind, (data, _) in BAD.items():
        (root / "bad.safetensors").write_bytes(data)
        shutil.copy(root / "bad.safetensors", root / "more" / "bad.safetensors")
        await refused_both_ways(node, kind)
    for kind in FAULTS:
        tensors, metadata = bad(base, kind)
        save_file({key: t.clone().contiguous() for key, t in tensors.items()}, root / "bad.safetensors", metadata)
        shutil.copy(root / "bad.safetensors", root / "more" / "bad.safetensors")
        message = await refused_both_ways(node, kind)
        if kind.startswith("another family"):
            assert "made for" in message, kind
            assert spec.name in message, kind
    for name in ("weights.bin", "weights.pt", "weights.ckpt", "weights.pkl", "weights.pt2"):
        (root / "more" / name).write_bytes(b"x")
        with pytest.raises(RequestError) as refused:
            await order(node, "register", "mine", f"more/{name}")
        assert refused.value.status == 400
    assert node._cache.ledger.used_bytes == 0


async def refused_both_ways(node: LoraNode, kind: str) -> str:
    """What is said of `bad` when it is asked for; the same file cannot be registered either."""
    with pytest.raises(InvalidAdapter) as asked:
        await load(node, "bad")
    with pytest.raises(InvalidAdapter) as registered:
        await order(node, "register", "mine", "more/bad.safetensors")
    assert registered.value.param == "path", kind
    assert (asked.value.status, asked.value.param) == (400, "lora[bad]"), kind
    with pytest.raises(NotFound):
        await load(node, "mine")
    return asked.value.message


def test_a_root_that_is_not_there_ends_the_start(spec: ModelSpec, tmp_path: Path) -> None:
    """With a line that names it."""
    with pytest.raises(CheckpointError, match=r"no folder .*none of adapters"):
        LoraNode(spec, [tmp_path / "none"], BYTES)


class Flaky:
    """A LoRA node whose replica dies a few times."""

    def __init__(self, inner: LoraNode, deaths: int) -> None:
        self.inner, self.deaths = inner, deaths

    async def run(self, call: NodeCall) -> NodeResult:
        """One call."""
        self.deaths -= 1
        if self.deaths >= 0:
            raise NodeLost
        return await self.inner.run(call)


async def test_an_adapter_is_pulled_from_the_replica_that_takes_a_dead_ones_place(
    spec: ModelSpec, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name and hash, which a new replica has not heard of."""
    monkeypatch.setattr(adapter_cache, "RETRY_PAUSE_S", 0.01)
    [image] = await load(LoraNode(spec, [root], BYTES), "image")
    shelf = AdapterCache(Flaky(LoraNode(spec, [root], BYTES), 3), ("transformer",), BYTES)
    assert (await shelf.take([image]))[0].adapter.sha256 == image.sha256
    monkeypatch.setattr(adapter_cache, "ATTEMPTS", 2)
    with pytest.raises(NodeError, match="could not be had"):
        await AdapterCache(Flaky(LoraNode(spec, [root], BYTES), 9), ("transformer",), BYTES).take([image])


async def test_one_adapter_that_cannot_be_had_gives_the_others_back(spec: ModelSpec, root: Path) -> None:
    """Nothing stays pinned."""
    node = LoraNode(spec, [root], BYTES)
    [image] = await load(node, "image")
    shelf = AdapterCache(node, ("transformer",), BYTES)
    shelf.release(await shelf.take([image]))
    gone = LoadedAdapter(AdapterRequest("gone"), "0" * 64, 10, has_text=False)
    with pytest.raises(NotFound):
        await shelf.take([image, gone])
    await asyncio.sleep(0.01)
    assert shelf._cache.ledger.pinned_bytes == 0
