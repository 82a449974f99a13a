"""What operators want of a model's adapters, brought to its LoRA node; and which replicas have an adapter at hand."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import NotFound, RequestError
from lego_serve.serving.errors import NodeLost

RESIDENT_S = 2.0  # for replicas to say what they have; a list is answered without it then
HOLDERS = ("backbone", "text_encoder")  # components whose replicas keep adapters
Held = dict[str, list[str]]


class AdapterHolder(Protocol):
    """A deployment that can be asked what of adapters it has."""

    async def resident(self) -> list[tuple[str, tuple[str, ...]]]:
        """The adapters each replica has at hand, by their hashes.  Raises NodeLost."""
        ...


async def run_adapter_command(
    order: AdapterCommand,
    nodes: Mapping[tuple[str, str], AdapterHolder],
    ask: Callable[[str, NodeCall], Awaitable[NodeResult]],
) -> Mapping[str, Any]:
    """Have a model's LoRA node do it; ``ask`` makes a call of the LoRA node of a model.

    Raises NotFound for a model that is not here or has no adapters, RequestError where it must be said which, and what
    the LoRA node raises.
    """
    model = _model(order.model, nodes)
    answer = await ask(model, NodeCall(f"{order.verb}_adapter", {"name": order.name, "path": order.path}))
    if answer.error is not None:
        raise answer.error
    value: Any = answer.value
    if order.verb in ("list", "show"):
        held = await _held({c: nodes[model, c] for c in HOLDERS if (model, c) in nodes})
        value = {"adapters": {name: _with_places(card, held) for name, card in value["adapters"].items()}}
    return {"model": model} | value


def _model(wanted: str | None, nodes: Mapping[tuple[str, str], object]) -> str:
    """The model that is meant."""
    having = sorted(model for model, component in nodes if component == "adapters")
    if wanted in having:
        return str(wanted)
    if wanted is not None:
        if any(model == wanted for model, _ in nodes):
            said = f"Model {wanted} has no adapters; there are some for: {', '.join(having) or 'none'}."
        else:
            said = did_you_mean("model", wanted, sorted({model for model, _ in nodes}))
        raise NotFound(said, param="model", code="model_not_found")
    if not having:
        raise NotFound("No model here has adapters.", param="model", code="model_not_found")
    if len(having) > 1:
        said = f"Say which `model` is meant, of: {', '.join(having)}."
        raise RequestError(said, param="model", code="model_needed")
    return having[0]


async def _held(holders: Mapping[str, AdapterHolder]) -> Held | None:
    """The replicas that have an adapter, by its hash; None where they do not say so soon."""
    try:
        async with asyncio.timeout(RESIDENT_S):
            said = await asyncio.gather(*(holder.resident() for holder in holders.values()))
    except (TimeoutError, NodeLost):
        return None
    found: Held = {}
    for component, replicas in zip(holders, said, strict=True):
        for replica, hashes in replicas:
            for sha256 in hashes:
                found.setdefault(sha256, []).append(f"{component}:{replica}")
    return found


def _with_places(card: dict[str, Any], held: Held | None) -> dict[str, Any]:
    """An adapter's card with where it is resident; None where that is not known."""
    about = dict(card)
    lora_node = ["LoRA node"] if about.pop("in_patcher", False) else []
    sha256 = about.get("sha256")  # of those that have been read since the LoRA node began
    about["resident"] = None if held is None or sha256 is None else lora_node + sorted(held.get(sha256, []))
    return about
