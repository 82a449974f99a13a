"""What operators register at the LoRA node, what is refused, and what outlives it."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lego_serve.core.nodes.requests import ListAdapters, RegisterAdapter, RemoveAdapter
from lego_serve.errors import (
    CapacityError,
    CheckpointError,
    InvalidAdapter,
    LegoError,
    NodeError,
    NotFound,
    RequestError,
)
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.lora.unsound import BAD, FAULTS, bad
from tests.support.nodes import BYTES, command, load


async def test_an_operator_registers_files_under_the_roots(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """By paths without tricks, up to the limit, under names that are free; what is in the registry can be removed."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1))
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
            await command(node, RegisterAdapter("mine", path))
        assert 400 <= refused.value.status < 500, path
        assert str(tmp_path) not in refused.value.message
    with pytest.raises(LegoError, match="of this name"):
        await command(node, RegisterAdapter("image", "sub/other.safetensors"))
    with pytest.raises(LegoError, match="a-z"):
        await command(node, RegisterAdapter("../mine", "sub/other.safetensors"))
    reply = await command(node, RegisterAdapter("mine", "sub/other.safetensors"))
    assert (await load(node, "mine"))[0].sha256 == reply.cards["mine"].sha256
    with pytest.raises(CapacityError) as full:
        await command(node, RegisterAdapter("more", "sub/other.safetensors"))
    assert (full.value.status, full.value.code) == (429, "registry_full")
    listed = (await command(node, ListAdapters())).cards
    assert {name: about.facts["registered"] for name, about in listed.items()} == {
        "image": False,
        "both": False,
        "bad": False,
        "mine": True,
    }
    await command(node, RemoveAdapter("mine"))
    with pytest.raises(NotFound):
        await load(node, "mine")
    with pytest.raises(NotFound):
        await command(node, RemoveAdapter("image"))


async def test_what_was_registered_outlives_the_patcher(spec: ModelSpec, root: Path, tmp_path: Path) -> None:
    """Its successor serves it, still looks where its path leads, and keeps what was removed removed."""
    file = tmp_path / "state" / "registered.json"

    def started() -> LoraNode:
        return LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=2, registry=file))

    first = started()
    reply = await command(first, RegisterAdapter("mine", "sub/other.safetensors"))
    await command(first, RegisterAdapter("brief", "sub/other.safetensors"))
    await command(first, RemoveAdapter("brief"))
    second = started()
    assert (await load(second, "mine"))[0].sha256 == reply.cards["mine"].sha256
    assert {
        name for name, about in (await command(second, ListAdapters())).cards.items() if about.facts["registered"]
    } == {"mine"}
    with pytest.raises(LegoError, match="of this name"):
        await command(second, RegisterAdapter("mine", "sub/other.safetensors"))
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
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1, registry=tmp_path / "state"))
    (tmp_path / "state" / "in the way").mkdir(parents=True)
    with pytest.raises(NodeError) as failed:
        await command(node, RegisterAdapter("mine", "sub/other.safetensors"))
    assert failed.value.code == "registry_not_written"
    with pytest.raises(NotFound):
        await load(node, "mine")


async def test_no_bad_adapter_gets_past_the_patcher(spec: ModelSpec, base: BaseLayers, root: Path) -> None:
    """Asked for or registered it is the caller's fault, named; no byte of it is kept or handed out."""
    (root / "more").mkdir()
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=9))
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
            await command(node, RegisterAdapter("mine", f"more/{name}"))
        assert refused.value.status == 400
    assert node._cache.ledger.used_bytes == 0


async def refused_both_ways(node: LoraNode, kind: str) -> str:
    """The error message of `bad` when a request names it; the same file cannot be registered either."""
    with pytest.raises(InvalidAdapter) as asked:
        await load(node, "bad")
    with pytest.raises(InvalidAdapter) as registered:
        await command(node, RegisterAdapter("mine", "more/bad.safetensors"))
    assert registered.value.param == "path", kind
    assert (asked.value.status, asked.value.param) == (400, "lora[bad]"), kind
    with pytest.raises(NotFound):
        await load(node, "mine")
    return asked.value.message


def test_a_root_that_is_not_there_ends_the_start(spec: ModelSpec, tmp_path: Path) -> None:
    """With a line that names it."""
    with pytest.raises(CheckpointError, match=r"no folder .*none of adapters"):
        LoraNode(spec, LoraOptions((tmp_path / "none",), BYTES))
