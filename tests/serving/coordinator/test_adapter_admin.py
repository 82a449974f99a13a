"""Operators' orders about adapters: which LoRA node has them, what is said where none has, and where adapters are."""

import pytest

from lego_serve.core.addons import AdapterCommand
from lego_serve.errors import NotFound, RequestError
from lego_serve.serving.coordinator import adapter_admin
from tests.serving.coordinator.test_coordinator import FakeNode, coordinator, nodes


def lora_node(**cards: dict[str, object]) -> FakeNode:
    """One that has these adapters."""
    return FakeNode(lambda call, count: {"adapters": cards})


async def test_an_order_reaches_the_only_patcher() -> None:
    """Without a word of the model; of several it must be said which."""
    some = nodes()
    with pytest.raises(NotFound, match="No model here has adapters"):
        await coordinator(some).adapters(AdapterCommand("list"))
    some["lego-tiny", "adapters"] = lora_node()
    assert await coordinator(some).adapters(AdapterCommand("list")) == {"model": "lego-tiny", "adapters": {}}
    some["other", "adapters"] = lora_node()
    with pytest.raises(RequestError, match="which `model` is meant, of: lego-tiny, other") as unsaid:
        await coordinator(some).adapters(AdapterCommand("list"))
    assert (unsaid.value.status, unsaid.value.param) == (400, "model")
    assert (await coordinator(some).adapters(AdapterCommand("list", "other")))["model"] == "other"


async def test_a_model_that_is_not_here_is_told_from_one_without_adapters() -> None:
    """The first by its name and the nearest, the second with those that have some."""
    some = nodes()
    some["plain", "backbone"] = FakeNode(lambda call, count: {})
    some["lego-tiny", "adapters"] = lora_node()
    for model, said in (
        ("lego-tini", "There is no model lego-tini; did you mean lego-tiny?"),
        ("zzz", "There is no model zzz; there is lego-tiny, plain."),
        ("<zzz>", "There is no model of this name; there is lego-tiny, plain."),
        ("plain", "Model plain has no adapters; there are some for: lego-tiny."),
    ):
        with pytest.raises(NotFound) as missing:
            await coordinator(some).adapters(AdapterCommand("list", model))
        assert (missing.value.message, missing.value.param) == (said, "model")


async def test_adapters_are_told_with_the_places_they_are_at_hand_in() -> None:
    """Of those whose content is known; the LoRA node's own memory is one."""
    some = nodes()
    some["lego-tiny", "adapters"] = lora_node(
        used={"sha256": "1", "in_patcher": True}, gone={"sha256": "2", "in_patcher": False}, new={"registered": True}
    )
    some["lego-tiny", "backbone"].has = ("1", "3")
    some["lego-tiny", "text_encoder"].has = ("1",)
    found = (await coordinator(some).adapters(AdapterCommand("list")))["adapters"]
    assert {name: card["resident"] for name, card in found.items()} == {
        "used": ["LoRA node", "backbone:r1", "text_encoder:r1"], "gone": [], "new": None,
    }  # fmt: skip
    assert "in_patcher" not in found["used"]
    assert "resident" not in (await coordinator(some).adapters(AdapterCommand("names")))["adapters"]["used"]


async def test_a_replica_that_does_not_say_what_it_has_delays_a_list_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where adapters are is unknown then."""
    monkeypatch.setattr(adapter_admin, "RESIDENT_S", 0.01)
    some = nodes()
    some["lego-tiny", "adapters"] = lora_node(used={"sha256": "1", "in_patcher": True})
    some["lego-tiny", "backbone"].has = None
    found = (await coordinator(some).adapters(AdapterCommand("show", name="used")))["adapters"]
    assert found == {"used": {"sha256": "1", "resident": None}}
