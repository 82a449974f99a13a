"""What the LoRA node replies about its adapters, to requests and to operators."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from lego_serve.core.nodes.requests import (
    AdapterCard,
    AdapterCards,
    ListAdapterNames,
    ListAdapters,
    RegisterAdapter,
    ShowAdapter,
)
from lego_serve.errors import InvalidAdapter, NotFound, RequestError
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec, built_in_folder, profile_folder
from lego_serve.serving.caches.adapter_cache import AdapterCache
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import LoraOptions
from tests.support.lora.adapters import diffusers_names, kohya_names, products, saved
from tests.support.nodes import BYTES, command, load


@pytest.fixture
def root(base: BaseLayers, tmp_path: Path) -> Path:
    """Adapters of two ranks, one with a part for text encoders, and a damaged one."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    saved(diffusers_names(products(base, 1, rank=4, only="attn.to_q")), root, "image")
    saved(kohya_names(products(base, 2, rank=8)), root, "both")
    (root / "zip.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    shutil.copy(root / "image.safetensors", root / "sub" / "other.safetensors")
    return root


async def test_an_unknown_adapter_is_told_with_the_nearest(spec: ModelSpec, root: Path) -> None:
    """Among files and names given at run time."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1))
    await command(node, RegisterAdapter("pastel", "sub/other.safetensors"))
    for name, message in (
        ("imag", "There is no adapter imag; did you mean image?"),
        ("pastels", "There is no adapter pastels; did you mean pastel?"),
        ("nobody", "There is no adapter nobody; there is both, image, pastel, zip."),
    ):
        with pytest.raises(NotFound) as missing:
            await load(node, name)
        assert (missing.value.message, missing.value.param) == (message, f"lora[{name}]")


async def test_one_content_under_two_names_is_told_by_both(spec: ModelSpec, root: Path) -> None:
    """A request that asks for both would add the same products twice; for either it is served."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1))
    await command(node, RegisterAdapter("copy", "sub/other.safetensors"))
    with pytest.raises(RequestError) as twice:
        await load(node, "image", "both", "copy")
    assert (twice.value.code, twice.value.param) == ("duplicate_content", "lora[copy]")
    assert "Adapters image and copy have the same content" in twice.value.message
    assert (await load(node, "copy"))[0].sha256 == (await load(node, "image"))[0].sha256


async def test_a_list_tells_rank_and_bytes_by_the_files_headers(spec: ModelSpec, root: Path) -> None:
    """And what is wrong with a header; hashes are told of those that have been read."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1))
    [image] = await load(node, "image")
    await AdapterCache(node, ("transformer",), BYTES).take([image])
    cards = (await command(node, ListAdapters())).cards
    size = (root / "image.safetensors").stat().st_size
    facts = {"registered": False, "bytes": size, "rank": 4, "sha256": image.sha256}
    assert cards["image"] == AdapterCard(facts, image.sha256, in_lora_node=True)
    assert (cards["both"].facts["rank"], cards["both"].sha256, cards["both"].in_lora_node) == (8, None, None)
    assert cards["zip"].facts["rank"] is None
    assert "zip archive" in cards["zip"].facts["fault"]
    names = (await command(node, ListAdapterNames())).cards
    assert names == {name: AdapterCard({"registered": False}) for name in ("both", "image", "zip")}


async def test_one_adapter_is_read_and_checked_to_be_shown(spec: ModelSpec, base: BaseLayers, root: Path) -> None:
    """What it changes, where it was registered to, and how late it may come; nothing is kept for that."""
    node = LoraNode(spec, LoraOptions((root,), BYTES, registry_limit=1))
    await command(node, RegisterAdapter("mine", "sub/other.safetensors"))

    async def shown(name: str) -> AdapterCard:
        cards: AdapterCards = await command(node, ShowAdapter(name))
        return cards.cards[name]

    both = await shown("both")
    card = both.facts
    assert (card["rank"], card["ranks"], card["layers"]) == (8, [8], len(base.shapes))
    assert card["components"] == ["text_encoder", "text_encoder_2", "transformer"]
    assert (card["registered"], both.in_lora_node, card["early_ratio"]) == (False, False, 0.0)
    profile = {"sha256": (await shown("image")).sha256, "ratio": 0.25}
    (root / "image.profile.json").write_text(json.dumps(profile))
    assert (await shown("image")).facts["early_ratio"] == 0.25
    assert (await shown("mine")).facts["path"] == "sub/other.safetensors"
    for name, kind in (("nobody", NotFound), ("zip", InvalidAdapter), ("../image", NotFound)):
        with pytest.raises(kind) as refused:
            await shown(name)
        assert refused.value.param == "id"
    assert not node._cache.kept


async def test_a_cache_lists_what_it_has(spec: ModelSpec, root: Path) -> None:
    """By the hashes of the files."""
    node = LoraNode(spec, LoraOptions((root,), BYTES))
    cache = AdapterCache(node, ("transformer",), 16 * BYTES)
    leases = await cache.take(await load(node, "image", "both"))
    assert set(cache.kept) == {lease.adapter.sha256 for lease in leases}
    cache.release(leases)
    await asyncio.sleep(0)


def test_a_profile_lies_beside_its_adapter_unless_that_is_in_the_package(tmp_path: Path) -> None:
    """Or where it was chosen to lie, whosever the adapter is."""
    own, chosen, package = tmp_path / "own", tmp_path / "chosen", built_in_folder("builtin:adapters")
    assert profile_folder(tmp_path, None, own) == tmp_path
    assert profile_folder(package, None, own) == own
    assert profile_folder(package, chosen, own) == profile_folder(tmp_path, chosen, own) == chosen
