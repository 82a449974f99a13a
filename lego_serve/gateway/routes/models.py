"""What a request's ``model`` may name, and which adapters and ControlNets it may be asked with."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError, NotFound
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.addons import controlnets_of, sibling_workflow

PATIENCE_S = 2.0  # for LoRA nodes to name their adapters; models are listed without them then


def create_router(context: Context) -> APIRouter:
    """The routes of models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models(request: Request) -> JSONResponse:
        """The workflows a request's ``model`` may name."""
        context.authenticate(request)
        workflows = [w for _, w in sorted(context.runner.workflows.items())]
        return JSONResponse({"object": "list", "data": await _cards(context, workflows)})

    @router.get("/{name}")
    async def show_model(request: Request, name: str) -> JSONResponse:
        """One workflow, the inputs it takes and what may be added to it."""
        context.authenticate(request)
        workflow = context.runner.workflows.get(name)
        if workflow is None:
            said = did_you_mean("model", name, context.runner.workflows, "GET /v1/models lists them")
            raise NotFound(said, param="model", code="model_not_found")
        [card] = await _cards(context, [workflow])
        return JSONResponse(card)

    return router


async def _cards(context: Context, workflows: list[Workflow]) -> list[dict[str, Any]]:
    styled = {w.name: sibling_workflow(context.runner.workflows, w, ("lora",)) for w in workflows}
    models = sorted({model for found in styled.values() if found is not None for model in _patched(found)})
    named = dict(zip(models, await asyncio.gather(*(_adapters(context, model) for model in models)), strict=True))
    return [_card(w) | {"lego": _lego(context, w, styled[w.name], named)} for w in workflows]


def _card(workflow: Workflow) -> dict[str, Any]:
    return {"id": workflow.name, "object": "model", "created": 0, "owned_by": "lego_serve"}


def _lego(
    context: Context, workflow: Workflow, styled: Workflow | None, named: dict[str, list[str] | None]
) -> dict[str, Any]:
    """What OpenAI's API has no place for; ``adapters`` is None where their node does not answer."""
    controlled = sibling_workflow(context.runner.workflows, workflow, ("controlnet",))
    lists = [named[model] for model in (_patched(styled) if styled is not None else ())]
    adapters = None if None in lists else sorted({name for names in lists for name in names or ()})
    return {
        "version": workflow.version,
        "hash": workflow.content_hash,
        "inputs": workflow.canonical()["inputs"],
        "adapters": adapters,
        "controlnets": [] if controlled is None else sorted(controlnets_of(context, controlled)),
    }


def _patched(workflow: Workflow) -> list[str]:
    """The models whose adapters a workflow loads."""
    return sorted({node.model for node in workflow.nodes.values() if node.kind == "load_adapters"})


async def _adapters(context: Context, model: str) -> list[str] | None:
    """The names of a model's adapters; None where they cannot be had soon."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await context.runner.adapters(AdapterCommand("names", model))
    except (TimeoutError, LegoError):
        return None
    return sorted(found["adapters"])
