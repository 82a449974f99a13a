"""Carries out operators' requests about adapters; finds which replicas cache an adapter."""

import asyncio
from collections.abc import Mapping
from typing import Protocol, TypeAlias, TypeVar

from lego_serve.core.addons import AdapterFacts
from lego_serve.core.nodes.requests import (
    AdapterAdminRequest,
    AdapterCard,
    ListAdapterNames,
    ListAdapters,
    ListResidentAdapters,
    ModelAdapters,
    RegisterAdapter,
    RemoveAdapter,
    ShowAdapter,
)
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.values import NodeRequest
from lego_serve.errors import NodeError, NotFound, RequestError
from lego_serve.serving.coordinator.broadcast import ControllableNode
from lego_serve.serving.errors import NodeLost

RESIDENT_S = 2.0  # replicas must reply within this time, or a list goes out without the places
HOLDERS = ("backbone", "text_encoder")  # components whose replicas cache adapters
PlacesByHash: TypeAlias = dict[str, list[str]]
ReplyT = TypeVar("ReplyT")


class NodeAsk(Protocol):
    """Sends a request that belongs to no job to a node."""

    async def __call__(self, model: str, component: str, request: NodeRequest[ReplyT]) -> ReplyT:
        """Return the reply.  Raises LegoError."""
        ...


async def run_adapter_request(
    model: str | None, request: AdapterAdminRequest, nodes: Mapping[tuple[str, str], ControllableNode], ask: NodeAsk
) -> ModelAdapters:
    """Carry out an operator's request at a model's LoRA node; ``ask`` calls a node.

    Raises NotFound for a model that is unknown or has no adapters, RequestError if the model must be named, and the
    LoRA node's errors.
    """
    model = _model(model, nodes)
    match request:
        case RemoveAdapter():
            await ask(model, "adapters", request)
            return ModelAdapters(model)
        case ListAdapterNames() | RegisterAdapter():
            reply = await ask(model, "adapters", request)
            return ModelAdapters(model, {name: card.facts for name, card in reply.cards.items()})
        case ListAdapters() | ShowAdapter():
            reply = await ask(model, "adapters", request)
            places = await _places_by_hash({c: nodes[model, c] for c in HOLDERS if (model, c) in nodes})
            cards = {name: _with_places(card, places) for name, card in reply.cards.items()}
            return ModelAdapters(model, cards, reply.passed_over)


def _model(wanted: str | None, nodes: Mapping[tuple[str, str], object]) -> str:
    """Return the model a request is about."""
    having = sorted(model for model, component in nodes if component == "adapters")
    if wanted in having:
        return str(wanted)
    if wanted is not None:
        if any(model == wanted for model, _ in nodes):
            message = f"Model {wanted} has no adapters; there are some for: {', '.join(having) or 'none'}."
        else:
            message = did_you_mean("model", wanted, sorted({model for model, _ in nodes}))
        raise NotFound(message, param="model", code="model_not_found")
    if not having:
        raise NotFound("No model here has adapters.", param="model", code="model_not_found")
    if len(having) > 1:
        message = f"Say which `model` is meant, of: {', '.join(having)}."
        raise RequestError(message, param="model", code="model_needed")
    return having[0]


async def _places_by_hash(holders: Mapping[str, ControllableNode]) -> PlacesByHash | None:
    """Return the replicas that cache an adapter, by its hash; None on a time-out."""
    try:
        async with asyncio.timeout(RESIDENT_S):
            replies = await asyncio.gather(*(holder.control(ListResidentAdapters()) for holder in holders.values()))
    except (TimeoutError, NodeLost, NodeError):
        return None
    places: PlacesByHash = {}
    for component, replicas in zip(holders, replies, strict=True):
        for replica, hashes in replicas:
            for sha256 in hashes or ():
                places.setdefault(sha256, []).append(f"{component}:{replica}")
    return places


def _with_places(card: AdapterCard, places: PlacesByHash | None) -> AdapterFacts:
    """Return an adapter's facts with the places it is resident in; None if they are unknown."""
    resident = None
    if places is not None and card.sha256 is not None:  # only adapters read since the LoRA node began have a hash
        resident = (["lora"] if card.in_lora_node else []) + sorted(places.get(card.sha256, []))
    return {**card.facts, "resident": resident}
