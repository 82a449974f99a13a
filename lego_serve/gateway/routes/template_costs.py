"""What templates take of a replica's memory, said before it is spent."""

from collections.abc import Mapping, Sequence
from typing import Literal

from lego_serve.core.editing.templates import TemplateCommand, edit_node, entries_of, pin_room
from lego_serve.core.jobs.ports import JobRunner
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import NodeUnavailable, RequestError, with_param
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.requests.edits import caption_of
from lego_serve.gateway.requests.template_schemas import WarmRequest
from lego_serve.gateway.template_store import Template


class TemplateCosts:
    """Predictions: bytes of one entry, as replicas compute them, times the entries that an edit reads."""

    def __init__(self, runner: JobRunner, budgets: Mapping[str, int], tenant_pins: Mapping[str, int]) -> None:
        self._runner, self._budgets, self._tenant_pins = runner, budgets, tenant_pins
        self._said: dict[tuple[str, str, str], int] = {}  # what replicas answered, by verb, model and size

    async def predicted(self, template: Template, ask: WarmRequest | None = None) -> int | None:
        """Bytes of all that edits like this read; None where the template's workflow is served no more."""
        workflow = self._runner.workflows.get(template.workflow)
        if workflow is None:
            return None
        inputs = template_inputs(workflow, template, ask or WarmRequest(steps=template.steps))
        about_size = backbone_of(workflow), f"{template.width}x{template.height}"
        rows, each, text = [await self._answer(verb, *about_size) for verb in ("rows", "entry", "text")]
        entries = entries_of(workflow, inputs, rows)
        return entries.plain * each + entries.with_text * (each + text)

    def budget(self, template: Template) -> int:
        """The bytes that each replica of a template's backbone keeps."""
        workflow = self._runner.workflows.get(template.workflow)
        return 0 if workflow is None else self._budgets.get(backbone_of(workflow), 0)

    async def check_pin(self, tenant: str, template: Template, pinned: Mapping[str, Sequence[Template]]) -> None:
        """Raise Conflict where there is no room for one more pin of a tenant beside these, which are by tenant.

        Two that are pinned at once by two gateways may both find room; replicas hold pins to their share anyway.
        """
        taken = {owner: await self._taken(template, theirs) for owner, theirs in pinned.items()}
        own, budget = await self.predicted(template) or 0, self.budget(template)
        room = pin_room(budget, 1)
        mine = pin_room(budget, 1, self._tenant_pins.get(_model(self._runner, template) or ""))
        for whose, used, most in (("Your", taken.get(tenant, 0), mine), ("All tenants'", sum(taken.values()), room)):
            if used + own > most:
                raise Conflict(
                    f"{whose} pinned templates of this model take {used} bytes and this one {own}, and no more than "
                    f"{most} of a replica's {budget} can be theirs; remove one first, or register it without a pin.",
                    param="pin",
                    code="pins_full",
                )

    async def _taken(self, template: Template, pinned: Sequence[Template]) -> int:
        """What pinned templates take of the replicas that have a template, beside itself."""
        model = _model(self._runner, template)
        others = [one for one in pinned if one.id != template.id and _model(self._runner, one) == model]
        return sum([await self.predicted(one) or 0 for one in others])

    async def _answer(self, verb: Literal["rows", "entry", "text"], model: str, size: str) -> int:
        key = verb, model, size
        if key not in self._said:
            said = await self._runner.templates(TemplateCommand(verb, model, size))
            if not said:
                raise NodeUnavailable("No replica says how large a template's activations are.", code="replica_lost")
            self._said[key] = max(said.values())
        return self._said[key]


def template_inputs(workflow: Workflow, template: Template, ask: WarmRequest) -> dict[str, object]:
    """The inputs of such an edit of a template, which may say its caption.  Raises RequestError."""
    described = ask.model_copy(update=caption_of(workflow, ask.caption, template))
    return edit_inputs(workflow, (template.width, template.height), described)


def edit_inputs(workflow: Workflow, size: tuple[int, int], ask: WarmRequest) -> dict[str, object]:
    """The inputs of an edit at a size that goes through all noise levels.  Raises RequestError."""
    given: dict[str, object | None] = {
        "prompt": "",
        "edit": b"",
        "width": size[0],
        "height": size[1],
        "steps": ask.steps,
        "guidance": ask.guidance,
        "sampler": ask.sampler,
        "negative_prompt": ask.negative_prompt,
        "caption": ask.caption,
        "strength": 1.0,
        "seed": 0,
        "n": 1,
    }
    asked = {"steps", "guidance", "sampler", "negative_prompt", "caption"}  # refused where the workflow takes none
    taken = {
        name: value for name, value in given.items() if value is not None and (name in workflow.inputs or name in asked)
    }
    try:
        return bind(workflow, taken)
    except RequestError as error:
        raise with_param(error, "size" if error.param in ("width", "height") else error.param) from None


def backbone_of(workflow: Workflow) -> str:
    """The model that a workflow's edits are denoised by."""
    node = edit_node(workflow)
    assert node is not None, "a workflow with an input `edit` uses it"
    return node.model


def _model(runner: JobRunner, template: Template) -> str | None:
    workflow = runner.workflows.get(template.workflow)
    return None if workflow is None else backbone_of(workflow)
