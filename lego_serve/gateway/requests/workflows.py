"""Chooses the workflow of a request: the one it names, or a sibling that takes what the request adds."""

from collections.abc import Collection, Mapping

from lego_serve.core.scheduling.admission import Applicant
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.schemas import ADDONS, EditRequest, GenerationRequest, ImageRequest
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.template_store import Template

IMAGE_SUFFIXES = {"image": "-img2img", "edit": "-edit"}  # of the built-in workflow that takes such an input


def applicant_for(caller: Caller, workflow: Workflow, body: ImageRequest) -> Applicant:
    """Return what a request asks to be admitted as, before its images are decoded and its inputs are bound."""
    declared = workflow.inputs.get("n")
    usual = 1 if declared is None else declared.default
    return Applicant(caller.tenant, caller.weight, body.n or (usual if isinstance(usual, int) else 1))


def generation_workflow(context: Context, body: GenerationRequest) -> Workflow:
    """Return the workflow of a generation.  Raises NotFound, or UnsupportedParameter where none takes its addons."""
    workflow = _generating_workflow(context.runner.workflows, context.workflow(body.model), body.addons)
    sibling = sibling_workflow(context.runner.workflows, workflow, body.addons)
    if sibling is None:
        missing = next(name for name in ADDONS if name in body.addons and name not in workflow.inputs)
        raise UnsupportedParameter(f"Model {workflow.name} takes no `{missing}`.", param=missing)
    return sibling


def _generating_workflow(workflows: Mapping[str, Workflow], workflow: Workflow, addons: Collection[str]) -> Workflow:
    """Return a workflow, or the sibling without what a generation does not give: an image, or an addon it leaves out.

    Chat fronts offer every model of the list for generations; as edits of `NAME` lead to `NAME-edit`, so generations
    by `NAME-edit` lead to `NAME`.
    """
    plain_name = workflow.name
    for name in reversed(ADDONS):
        if name in workflow.inputs and name not in addons:
            plain_name = plain_name.removesuffix(f"-{name}")
    if any(name in workflow.inputs for name in IMAGE_SUFFIXES):
        for name in reversed(ADDONS):
            plain_name = plain_name.removesuffix(f"-{name}")
        for suffix in IMAGE_SUFFIXES.values():
            plain_name = plain_name.removesuffix(suffix)
    sibling = workflows.get(plain_name)
    return workflow if sibling is None or any(name in sibling.inputs for name in IMAGE_SUFFIXES) else sibling


def edit_workflow(context: Context, body: EditRequest, input_name: str, template: Template | None) -> Workflow:
    """Return the workflow of an edit that takes ``input_name``: `image`, or `edit` for an image with a mask.

    Raises NotFound, UnsupportedParameter, or RequestError where the template belongs to another workflow.
    """
    named = context.workflow(body.model or (None if template is None else template.model))
    workflow = image_workflow(context, named, input_name)
    # A template's activations are the same for the sibling that adapters lead to: only this one is compared.
    if template is not None and "edit" in workflow.inputs and workflow.name != template.workflow:
        raise RequestError("The template was registered for another model; leave `model` out.", param="model")
    if not body.lora or "lora" in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(f"{workflow.name}-lora")
    if sibling is None or not {"lora", *workflow.inputs} <= set(sibling.inputs):
        raise UnsupportedParameter("This model takes no `lora`.", param="lora")
    return sibling


def image_workflow(context: Context, workflow: Workflow, input_name: str, param: str | None = None) -> Workflow:
    """Return the workflow, or its sibling, that takes ``input_name``: `image` or `edit`.

    Raises UnsupportedParameter about ``param``; without one, about the field of the request that needs the input.
    """
    if input_name in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(workflow.name + IMAGE_SUFFIXES[input_name])
    if sibling is None or input_name not in sibling.inputs:
        param = param or ("image" if input_name == "image" else "mask")
        what = "edit images" if input_name == "image" else "edit parts of images"
        raise UnsupportedParameter(f"This model does not {what}.", param=param)
    return sibling


def sibling_workflow(workflows: Mapping[str, Workflow], workflow: Workflow, addons: Collection[str]) -> Workflow | None:
    """Return the workflow that takes these addons and those of ``workflow``: itself or its sibling; None without one.

    A sibling has the workflow's name with the missing addons at its end, or the name without any addon with all of
    them at its end.
    """
    missing = [name for name in ADDONS if name in addons and name not in workflow.inputs]
    if not missing:
        return workflow
    plain_name = workflow.name
    for name in reversed(ADDONS):
        if name in workflow.inputs:
            plain_name = plain_name.removesuffix(f"-{name}")
    wanted = [name for name in ADDONS if name in addons or name in workflow.inputs]
    for words in ([workflow.name, *missing], [plain_name, *wanted]):
        sibling = workflows.get("-".join(words))
        if sibling is not None and set(wanted) <= set(sibling.inputs):
            return sibling
    return None
