"""Predicts what templates take of a replica's memory, before it is spent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_serve.core.editing.templates import pin_room
from lego_serve.core.jobs.ports import ClusterAdmin, JobRunner
from lego_serve.core.nodes.requests import MeasureTemplate, TemplateSize
from lego_serve.core.tiers.book import EXACT, TierRun
from lego_serve.core.tiers.checkpoints import NO_SUCH_TIER
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Node, Workflow
from lego_serve.core.workflow.template_entries import edit_node, entries_of
from lego_serve.core.workflow.tiers import Books, run_of
from lego_serve.errors import NodeUnavailable, RequestError, with_param
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.requests.edits import caption_input
from lego_serve.gateway.requests.job_request import settled_tier
from lego_serve.gateway.requests.template_schemas import WarmRequest
from lego_serve.gateway.settings import TemplateSettings
from lego_serve.gateway.template_store import Template

OPTIONAL_FIELDS = ("steps", "guidance", "sampler", "tier", "negative_prompt", "caption")  # of a request for warming


class TemplateCosts:
    """Predicts bytes: those of one entry, which replicas compute, times the entries that an edit reads."""

    def __init__(self, runner: JobRunner, admin: ClusterAdmin, settings: TemplateSettings, tiers: Books) -> None:
        self._runner, self._admin, self._tiers = runner, admin, tiers
        self._budgets, self._tenant_pins = settings.budgets, settings.tenant_pins
        self._sizes: dict[tuple[str, MeasureTemplate], TemplateSize] = {}  # as replicas answered, by model and question

    def card(self, template: Template, predicted: int | None) -> dict[str, object]:
        """Return what a list says of a template that is predicted to take so many bytes, None where that is unknown."""
        return {
            "id": template.id,
            "object": "template",
            "name": template.name,
            "caption": template.caption,
            "created": template.created,
            "width": template.width,
            "height": template.height,
            "model": template.model,
            "pinned": bool(template.pin),
            "bytes_predicted": predicted,
            "fits": predicted is not None and predicted <= self.budget(template),
        }

    async def predicted(self, template: Template, warm: WarmRequest | None = None) -> int | None:
        """Return the bytes of all that such edits of a template read; None where its workflow is not served any more.

        Raises RequestError where the workflow does not take such an edit, NodeUnavailable.
        """
        workflow = self._runner.workflows.get(template.workflow)
        if workflow is None:
            return None
        asked = warm or WarmRequest(steps=template.steps, tier=template.tier)
        inputs = template_inputs(workflow, template, asked)
        settled_tier(workflow, inputs, self._tiers, is_named=asked.tier is not None)
        node = denoising_node(workflow)
        run = run_of(node, inputs, self._tiers)
        size = await self._size(node.model, template.width, template.height, run)
        entries = entries_of(workflow, inputs, size.rows, begins=None if run is None else size.begins)
        return entries.plain * size.entry_bytes + entries.with_text * (size.entry_bytes + size.text_bytes)

    def budget(self, template: Template) -> int:
        """Return the bytes of activations that each replica of a template's backbone keeps."""
        return self._budgets.get(self._model(template) or "", 0)

    async def check_pin(self, tenant: str, template: Template, pinned: Mapping[str, Sequence[Template]]) -> None:
        """Raise Conflict where there is no room for one more pin of a tenant beside the ``pinned`` of each tenant.

        Two that are pinned at once by two gateways may both find room; replicas hold pins to their share anyway.
        """
        used = {owner: await self._pinned_bytes(template, templates) for owner, templates in pinned.items()}
        needed, budget = await self.predicted(template) or 0, self.budget(template)
        tenant_room = pin_room(budget, 1, self._tenant_pins.get(self._model(template) or ""))
        checks = (
            ("Your", used.get(tenant, 0), tenant_room),
            ("All tenants'", sum(used.values()), pin_room(budget, 1)),
        )
        for whose, used_bytes, room in checks:
            if used_bytes + needed > room:
                raise Conflict(
                    f"{whose} pinned templates of this model take {used_bytes} bytes and this one {needed}, and no "
                    f"more than {room} of a replica's {budget} can be theirs; remove one first, or register it without "
                    "a pin.",
                    param="pin",
                    code="pins_full",
                )

    async def _pinned_bytes(self, template: Template, pinned: Sequence[Template]) -> int:
        """Return what pinned templates, without this one, take of the replicas that have it."""
        model = self._model(template)
        others = [other for other in pinned if other.id != template.id and self._model(other) == model]
        return sum([await self._registered(other) or 0 for other in others])

    async def _registered(self, template: Template) -> int | None:
        """Return ``predicted`` of what was registered before, in all steps where its tier is not tuned any more."""
        try:
            return await self.predicted(template)
        except RequestError as error:
            if error.code != NO_SUCH_TIER:
                raise
            return await self.predicted(template, WarmRequest(steps=template.steps, tier=EXACT))

    async def _size(self, model: str, width: int, height: int, run: TierRun | None) -> TemplateSize:
        """Return the largest answer of a model's replicas, which does not change.  Raises NodeUnavailable."""
        measured = MeasureTemplate(width, height)
        if run is not None:
            measured = replace(measured, sampler=run.sampler, steps=run.steps, grid=run.grid)
        key = model, measured
        if key not in self._sizes:
            sizes = await self._admin.templates(model, measured)
            if not sizes:
                raise NodeUnavailable("No replica says how large a template's activations are.", code="replica_lost")
            self._sizes[key] = max(sizes.values(), key=lambda size: size.entry_bytes)
        return self._sizes[key]

    def _model(self, template: Template) -> str | None:
        workflow = self._runner.workflows.get(template.workflow)
        return None if workflow is None else backbone_of(workflow)


def template_inputs(workflow: Workflow, template: Template, warm: WarmRequest) -> dict[str, object]:
    """Return the inputs of an edit of a template, with its caption where the request has none.  Raises RequestError."""
    captioned = warm.model_copy(update=caption_input(workflow, warm.caption, template))
    return edit_inputs(workflow, (template.width, template.height), captioned)


def edit_inputs(workflow: Workflow, size: tuple[int, int], warm: WarmRequest) -> dict[str, object]:
    """Return the inputs of an edit at a size (width, height) that goes through all noise levels.

    Raises RequestError, also for a field of the request that the workflow does not take.
    """
    standard: dict[str, object] = {
        "prompt": "",
        "edit": b"",
        "width": size[0],
        "height": size[1],
        "strength": 1.0,
        "seed": 0,
        "n": 1,
    }
    values = {name: value for name, value in standard.items() if name in workflow.inputs}
    values |= {name: value for name in OPTIONAL_FIELDS if (value := getattr(warm, name)) is not None}
    try:
        return bind(workflow, values)
    except RequestError as error:
        raise with_param(error, "size" if error.param in ("width", "height") else error.param) from None


def backbone_of(workflow: Workflow) -> str:
    """Return the model that denoises a workflow's edits."""
    return denoising_node(workflow).model


def denoising_node(workflow: Workflow) -> Node:
    """Return the node that denoises a workflow's edits."""
    node = edit_node(workflow)
    assert node is not None, "a workflow with an input `edit` uses it"
    return node
