"""What templates take of a replica's memory, said before it is spent."""

from collections.abc import Mapping

from lego_serve.core.ports import JobRunner
from lego_serve.core.templates import PINNED_RATIO, TemplateOrder, edit_node, entries_of
from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_bind import bind
from lego_serve.errors import NodeError, RequestError, about
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.template_files import Template
from lego_serve.gateway.template_requests import WarmRequest


class TemplateCosts:
    """Predictions: bytes of one entry, as a replica computes them, times the entries that an edit reads."""

    def __init__(self, runner: JobRunner, budgets: Mapping[str, int]) -> None:
        self._runner, self._budgets = runner, budgets
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

    async def check_pin(self, template: Template, pinned: list[Template]) -> None:
        """Raise Conflict where there is no room for one more pin beside these.

        Two that are pinned at once by two gateways may both find room; replicas hold pins to their share anyway.
        """
        model = _model(self._runner, template)
        others = [one for one in pinned if one.id != template.id and _model(self._runner, one) == model]
        taken = sum([await self.predicted(one) or 0 for one in others])
        own, room = await self.predicted(template) or 0, int(PINNED_RATIO * self.budget(template))
        if taken + own > room:
            raise Conflict(
                f"Pinned templates of this model take {taken} bytes and this one {own}, and no more than {room} of a "
                f"replica's {self.budget(template)} can be pinned.",
                param="pin",
                code="pins_full",
            )

    async def _entry_bytes(self, model: str, size: str) -> int:
        if (model, size) not in self._entries:
            said = await self._runner.templates(TemplateOrder("entry", model, size))
            if not said:
                raise NodeError("No replica says how large a template's activations are.", code="replica_lost")
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
