"""Routes of models: what a request's ``model`` may name, and the adapters and ControlNets that go with it."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lego_serve.core.nodes.requests import ListAdapterNames
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.tiers.book import TierRun
from lego_serve.core.workflow.graph import Workflow
from lego_serve.core.workflow.tiers import tuned_runs
from lego_serve.errors import LegoError, NotFound
from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import errors
from lego_serve.gateway.requests.addons import known_controlnets
from lego_serve.gateway.requests.workflows import sibling_workflow

PATIENCE_S = 2.0  # for LoRA nodes to name their adapters; models are listed without them then


def create_router(context: Context) -> APIRouter:
    """Build the routes of models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models(request: Request) -> JSONResponse:
        """The workflows a request's ``model`` may name."""
        context.authenticate(request)
        workflows = [workflow for _, workflow in sorted(context.runner.workflows.items())]
        return JSONResponse({"object": "list", "data": await _model_cards(context, workflows)})

    @router.get("/{name}", responses=errors(404))
    async def show_model(request: Request, name: str) -> JSONResponse:
        """One workflow, the inputs it takes and what may be added to it."""
        context.authenticate(request)
        workflow = context.runner.workflows.get(context.settings.aliases.get(name, name))
        if workflow is None:
            message = did_you_mean("model", name, context.runner.workflows, "GET /v1/models lists them")
            raise NotFound(message, param="model", code="model_not_found")
        [card] = await _model_cards(context, [workflow])
        return JSONResponse(card)

    return router


async def _model_cards(context: Context, workflows: list[Workflow]) -> list[dict[str, Any]]:
    """Return the answer about each workflow, asking every LoRA node once."""
    lora_models = {workflow.name: _lora_models(context, workflow) for workflow in workflows}
    models = sorted({model for names in lora_models.values() for model in names})
    adapter_names = await asyncio.gather(*(_adapter_names(context, model) for model in models))
    names_by_model = dict(zip(models, adapter_names, strict=True))
    return [
        {
            "id": workflow.name,
            "object": "model",
            "created": 0,
            "owned_by": "lego_serve",
            "lego": {
                "version": workflow.version,
                "hash": workflow.content_hash,
                "inputs": workflow.canonical()["inputs"],
                "adapters": _joined([names_by_model[model] for model in lora_models[workflow.name]]),
                "controlnets": _controlnet_names(context, workflow),
                "tiers": [_tier_card(run) for run in tuned_runs(workflow, context.settings.tiers)],
            },
        }
        for workflow in workflows
    ]


def _lora_models(context: Context, workflow: Workflow) -> list[str]:
    """Return the models whose adapters a workflow, or its sibling that takes adapters, loads."""
    sibling = sibling_workflow(context.runner.workflows, workflow, ("lora",))
    if sibling is None:
        return []
    return sorted({node.model for node in sibling.nodes.values() if node.kind == "load_adapters"})


def _controlnet_names(context: Context, workflow: Workflow) -> list[str]:
    """Return the ControlNets that a workflow, or its sibling that takes ControlNets, may be asked with."""
    sibling = sibling_workflow(context.runner.workflows, workflow, ("controlnet",))
    return [] if sibling is None else sorted(known_controlnets(context.settings, sibling))


def _tier_card(run: TierRun) -> dict[str, Any]:
    """Return what a tier runs in place of which steps, for images of how many pixels, and its own guidance if any."""
    guidance = None if run.checkpoint is None else run.checkpoint.guidance
    own = {} if guidance is None else {"guidance": guidance}
    return own | {
        "name": run.tier,
        "sampler": run.sampler,
        "steps": run.steps,
        "evaluations": run.grid.evaluations,
        "pixels": list(run.pixels),
    }


def _joined(lists: list[list[str] | None]) -> list[str] | None:
    """Return all names, each once; None where one of the lists is not known."""
    names: set[str] = set()
    for entries in lists:
        if entries is None:
            return None
        names.update(entries)
    return sorted(names)


async def _adapter_names(context: Context, model: str) -> list[str] | None:
    """Return the names of a model's adapters; None where its LoRA node does not answer soon."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await context.admin.adapters(model, ListAdapterNames())
    except (TimeoutError, LegoError):
        return None
    return sorted(answer.adapters)
