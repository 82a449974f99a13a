"""Operators' requests about adapters: the LoRA node that gets them, refusals, and the places of adapters."""

import pytest

from lego_serve.core.adapter_files import PassedOver
from lego_serve.core.nodes.requests import (
    AdapterCard,
    AdapterCards,
    ListAdapterNames,
    ListAdapters,
    ModelAdapters,
    ShowAdapter,
)
from lego_serve.errors import NotFound, RequestError
from lego_serve.serving.coordinator import adapter_admin
from tests.support.nodes import LATENTS, FakeNode, coordinator, nodes


def lora_node(**cards: AdapterCard) -> FakeNode:
    """A LoRA node with these adapters."""
    return FakeNode(lambda call, count: AdapterCards(cards))


async def test_a_request_reaches_the_only_lora_node() -> None:
    """The model may be left out; with several LoRA nodes it must be named."""
    some = nodes()
    with pytest.raises(NotFound, match="No model here has adapters"):
        await coordinator(some).adapters(None, ListAdapters())
    some["lego-tiny", "adapters"] = lora_node()
    assert await coordinator(some).adapters(None, ListAdapters()) == ModelAdapters("lego-tiny")
    some["other", "adapters"] = lora_node()
    with pytest.raises(RequestError, match="which `model` is meant, of: lego-tiny, other") as unnamed:
        await coordinator(some).adapters(None, ListAdapters())
    assert (unnamed.value.status, unnamed.value.param) == (400, "model")
    assert (await coordinator(some).adapters("other", ListAdapters())).model == "other"


async def test_an_unknown_model_and_one_without_adapters_get_different_errors() -> None:
    """The first error names the nearest model, the second the models that have adapters."""
    some = nodes()
    some["plain", "backbone"] = FakeNode(lambda call, count: LATENTS)
    some["lego-tiny", "adapters"] = lora_node()
    for model, message in (
        ("lego-tini", "There is no model lego-tini; did you mean lego-tiny?"),
        ("zzz", "There is no model zzz; there is lego-tiny, plain."),
        ("<zzz>", "There is no model of this name; there is lego-tiny, plain."),
        ("plain", "Model plain has no adapters; there are some for: lego-tiny."),
    ):
        with pytest.raises(NotFound) as missing:
            await coordinator(some).adapters(model, ListAdapters())
        assert (missing.value.message, missing.value.param) == (message, "model")


async def test_a_list_has_the_places_that_adapters_are_resident_in() -> None:
    """The places of an adapter whose content is known; the LoRA node's own memory is one."""
    some = nodes()
    some["lego-tiny", "adapters"] = lora_node(
        used=AdapterCard({"sha256": "1"}, "1", in_lora_node=True),
        gone=AdapterCard({"sha256": "2"}, "2", in_lora_node=False),
        new=AdapterCard({"registered": True}),
    )
    some["lego-tiny", "backbone"].has = ("1", "3")
    some["lego-tiny", "text_encoder"].has = ("1",)
    found = (await coordinator(some).adapters(None, ListAdapters())).adapters
    assert {name: card["resident"] for name, card in found.items()} == {
        "used": ["lora", "backbone:r1", "text_encoder:r1"],
        "gone": [],
        "new": None,
    }
    assert "resident" not in (await coordinator(some).adapters(None, ListAdapterNames())).adapters["used"]


async def test_a_list_has_the_files_that_the_lora_node_passes_over() -> None:
    """As it tells of them."""
    file, some = PassedOver("My Style.safetensors", "Its name is no id."), nodes()
    some["lego-tiny", "adapters"] = FakeNode(lambda call, count: AdapterCards({}, (file,)))
    assert (await coordinator(some).adapters(None, ListAdapters())).passed_over == (file,)


async def test_a_silent_replica_delays_a_list_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places are unknown then."""
    monkeypatch.setattr(adapter_admin, "RESIDENT_S", 0.01)
    some = nodes()
    some["lego-tiny", "adapters"] = lora_node(used=AdapterCard({"sha256": "1"}, "1", in_lora_node=True))
    some["lego-tiny", "backbone"].has = None
    found = (await coordinator(some).adapters(None, ShowAdapter("used"))).adapters
    assert found == {"used": {"sha256": "1", "resident": None}}
