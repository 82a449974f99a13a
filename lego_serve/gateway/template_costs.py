"""What templates take of a replica's memory, said before it is spent."""

from collections.abc import Mapping, Sequence

from lego_serve.core.ports import JobRunner
from lego_serve.core.templates import TemplateOrder, edit_node, entries_of, pin_room
from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_bind import bind
from lego_serve.errors import NodeUnavailable, RequestError, about
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.template_files import Template
from lego_serve.gateway.template_requests import WarmRequest


class TemplateCosts:
    """Predictions: bytes of one entry, as a replica computes them, times the entries that an edit reads."""

    def __init__(self, runner: JobRunner, budgets: Mapping[str, int], tenant_pins: Mapping[str, int]) -> None:
        self._runner, self._budgets, self._tenant_pins = runner, budgets, tenant_pins
        self._entries: dict[tuple[str, str], int] = {}  # bytes of one, by model and size

    async def predicted(self, template: Template, ask: WarmRequest | None = None) -> int | None:
        """Bytes of all that edits like this read; None where the template's workflow is served no more."""
        workflow = self._runner.workflows.get(template.workflow)
        if workflow is None:
            return None
        inputs = edit_inputs(workflow, (template.width, template.height), ask or WarmRequest(steps=template.steps))
        each = await self._entry_bytes(backbone_of(workflow), f"{template.width}x{template.height}")
        return each * entries_of(workflow, inputs)

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

    async def _entry_bytes(self, model: str, size: str) -> int:
        if (model, size) not in self._entries:
            said = await self._runner.templates(TemplateOrder("entry", model, size))
            if not said:
                raise NodeUnavailable("No replica says how large a template's activations are.", code="replica_lost")
            self._entries[model, size] = max(said.values())
        return self._entries[model, size]


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
        "strength": 1.0,
        "seed": 0,
        "n": 1,
    }
    asked = {"steps", "guidance", "sampler", "negative_prompt"}  # refused where the workflow does not take them
    taken = {
        name: value for name, value in given.items() if value is not None and (name in workflow.inputs or name in asked)
    }
    try:
        return bind(workflow, taken)
    except RequestError as error:
        raise about(error, "size" if error.param in ("width", "height") else error.param) from None


def backbone_of(workflow: Workflow) -> str:
    """The model that a workflow's edits are denoised by."""
    node = edit_node(workflow)
    assert node is not None, "a workflow with an input `edit` uses it"
    return node.model


def _model(runner: JobRunner, template: Template) -> str | None:
    workflow = runner.workflows.get(template.workflow)
    return None if workflow is None else backbone_of(workflow)
