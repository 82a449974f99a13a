"""What this server has, by the names that foreign tools are shown and may use."""

import asyncio
from collections.abc import Iterable

from lego_serve.compat.names import Names
from lego_serve.core.nodes.requests import ListAdapterNames
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.addons import known_controlnets
from lego_serve.gateway.requests.schemas import ADDONS
from lego_serve.gateway.requests.workflows import IMAGE_SUFFIXES

PATIENCE_S = 2.0  # for LoRA nodes to name their adapters; those that do not answer have none meanwhile


def shown_models(context: Context) -> list[str]:
    """Return the models of a picker, the default first: aliases, and workflows that others are siblings of."""
    workflows = context.runner.workflows
    plain = [name for name, workflow in workflows.items() if not _beyond_text(workflow)]
    default = context.workflow(None).name
    names = sorted({*(plain or workflows), *context.settings.aliases})
    return [default, *(name for name in names if name != default)]


def known_models(context: Context) -> dict[str, str]:
    """Return every name of a model that a request may give, and our workflow behind it."""
    return {name: name for name in context.runner.workflows} | dict(context.settings.aliases)


def shown_controlnets(context: Context) -> list[str]:
    """Return the ControlNets of all models that are served."""
    served = context.runner.workflows.values()
    return sorted({name for workflow in served for name in known_controlnets(context.settings, workflow)})


async def adapter_names(context: Context) -> list[str]:
    """Return the adapters of all models that are served, asking every LoRA node once."""
    models = sorted(
        {
            node.model
            for workflow in context.runner.workflows.values()
            for node in workflow.nodes.values()
            if node.kind == "load_adapters"
        }
    )
    found = await asyncio.gather(*(_names_of(context, model) for model in models))
    return sorted({name for names in found for name in names})


async def names(context: Context, *, with_adapters: bool) -> Names:
    """Return what names mean; adapters are asked for only where a request has any."""
    loras = await adapter_names(context) if with_adapters else []
    return Names(known_models(context), {name: name for name in loras}, {n: n for n in shown_controlnets(context)})


async def _names_of(context: Context, model: str) -> Iterable[str]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return (await context.admin.adapters(model, ListAdapterNames())).adapters
    except (TimeoutError, LegoError):
        return ()


def _beyond_text(workflow: Workflow) -> bool:
    """Whether a workflow takes an image or an addon, so that requests which give one lead to it by themselves."""
    return any(name in workflow.inputs for name in (*IMAGE_SUFFIXES, *ADDONS))
