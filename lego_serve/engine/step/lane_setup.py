"""From a request to a lane: what is checked and computed once, and what each of its steps costs and computes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.lora_mode import AdapterSet
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.engine.controlnets import prepare_controlnets
from lego_serve.engine.edits import prepare_edit, start_edit
from lego_serve.engine.lane_checkpoint import lane_identity, read_checkpoint
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneState
from lego_serve.engine.rows.block_rows import check_block_rows
from lego_serve.engine.rows.own_rows import LaneRows
from lego_serve.engine.rows.references import prepare_references
from lego_serve.engine.step.priming import EditStep, PrimingBatch, ReferenceStep, priming_work, reference_work
from lego_serve.engine.template_store import TemplateStore
from lego_serve.models.lora.adapter import check_uses, key_of
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import LatentShape, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import FlowMatchTables, Schedule


def own_rows_of(request: LaneRequest, shape: LatentShape) -> LaneRows | None:
    """Return what a lane keeps of its own rows.

    None for an edit, which reads its template's, and where adapters come late: its work would change under way.
    """
    if request.own_rows is None or request.edit is not None or request.wait_for_adapters_at is not None:
        return None
    return LaneRows.of(request.own_rows, shape)


class LaneSetup:
    """Prepares lanes for one backbone."""

    def __init__(
        self,
        backbone: Backbone,
        tables: FlowMatchTables,
        controls: Mapping[str, ControlNetSource],
        templates: TemplateStore,
        model_revision: str = "",
    ) -> None:
        self._backbone, self._tables, self._controls, self._templates = backbone, tables, controls, templates
        self._model_revision = model_revision

    def new_state(self, request: LaneRequest, now: float) -> LaneState:
        """Return a lane before its first step.  Raises the errors of ``StepEngine.add``."""
        request.check_negative(uses_cfg=self._backbone.uses_cfg)
        size = request.width, request.height
        shape = self._backbone.shape
        schedule = self._tables.schedule(request.sampler, request.steps, shape.tokens(*size))
        edit = None
        if request.edit is None:
            start = self._tables.start(
                shape.of(*size), request.seed, schedule, request.init, request.strength, request.grid
            )
            latents, schedule = start.latents, start.schedule
        else:
            schedule = schedule.shortened(request.strength)
            schedule = schedule if request.grid is None else schedule.on_grid(request.grid)
            negative = request.negative if request.guidance > 1 else None
            edit = prepare_edit(request.edit, self._backbone, self._templates, size, schedule, negative)
            latents = start_edit(request.edit, request.seed, schedule)
        device = self._backbone.device  # lanes stay there: no step moves them, and only requested latents are fetched
        state = LaneState(
            request=request,
            cond=self._backbone.prepare(request.cond),
            negative=None if request.negative is None else self._backbone.prepare(request.negative),
            latents=latents.to(device),
            schedule=schedule,
            tokens=shape.tokens(*size),
            skipped=request.steps - schedule.asked,
            added_s=now,
            controls=prepare_controlnets(request.controls, self._controls, size, shape, request.cond, request.negative),
            is_paused=request.is_paused,
            edit=edit,
            references=prepare_references(request.references, self._backbone),
            own=own_rows_of(request, shape),
            blocks=self._blocks_of(request, schedule),
            identity=lane_identity(request, schedule, self._model_revision),
        )
        if request.checkpoint is not None:
            kept = read_checkpoint(request.checkpoint, shape.of(*size), state.identity)
            if kept is not None:
                kept.restore(state, device)
        return state

    def set_adapters(self, state: LaneState, adapters: tuple[AdapterUse, ...]) -> tuple[AdapterSet | None, ...]:
        """Check a lane's adapters and keep them in its state; return its set in each step, empty without any."""
        check_uses([(use.adapter.adapter_id, use.scale) for use in adapters])
        parts = tuple(replace(use, adapter=use.adapter.part("transformer")) for use in adapters)
        for use in parts:
            self._backbone.adapters.check(use.adapter)
        state.adapters = tuple(use for use in parts if use.adapter.pairs)
        if not state.adapters:
            return ()
        by_step = [state.adapters_at(step) for step in range(state.schedule.steps)]
        sets = {key_of(uses): uses for uses in by_step}
        weighed = {key: self._backbone.adapters.weigh(uses) if uses else None for key, uses in sets.items()}
        return tuple(weighed[key_of(uses)] for uses in by_step)

    def work(self, state: LaneState, step: int) -> StepWork:
        """Return the rows and pairs of one of a lane's steps: of its branches and its ControlNets."""
        if state.edit is None or state.controls_at(step):
            return state.work(step, uses_cfg=self._backbone.uses_cfg)
        negative = self._negative(state, step)
        text_rows = [int(cond.tokens.shape[0]) for cond in (state.cond, negative) if cond is not None]
        return state.edit.work(step, state.tokens, text_rows, state.reference_rows)

    def shared_work(self, state: LaneState) -> tuple[Mapping[str, StepWork], ...]:
        """Return, by step, the kept entries that a lane reads, and the work of filling each that is not kept."""
        if state.edit is None and not state.references:
            return ()
        return tuple(self._entry_work(state, step) for step in range(state.schedule.steps))

    def lane_input(self, state: LaneState, priming: PrimingBatch) -> LaneInput:
        """Return a lane's input to its next step; the template entries it reads are put into ``priming``."""
        negative = self._negative(state, state.step)
        guided = negative is not None
        lane = LaneInput(
            latents=state.latents,
            time=state.schedule.times[state.step],
            guidance=state.request.guidance,
            cond=state.cond,
            negative=negative,
            controls=tuple(control.step_input(state.step, guided=guided) for control in state.controls_at(state.step)),
            adapters=state.adapters_at(state.step),
            appended=priming.references(self._reference_step(state, state.step)),
        )
        if state.own is not None:
            return self._with_own_rows(lane, state)
        if state.blocks is not None:
            rows = state.rows_by_block(state.step)
            return replace(lane, block_rows=() if rows == (state.tokens,) else rows)
        if state.edit is None or lane.controls:  # a ControlNet's residuals are for whole images
            return lane
        primed_before, evicted_before = len(priming.filling), self._templates.evicted
        reuse = priming.reuse(self._edit_step(state, state.step), guided=guided)
        state.primed_passes += len(priming.filling) - primed_before
        state.evicted_entries += self._templates.evicted - evicted_before
        return replace(lane, reuse=reuse)

    def _blocks_of(self, request: LaneRequest, schedule: Schedule) -> BlockRows | None:
        """Return a lane's rows per block; None where a lane has no own rows either, as ``own_rows_of`` says."""
        if request.block_rows is None or request.edit is not None or request.wait_for_adapters_at is not None:
            return None
        check_block_rows(request.block_rows, schedule.steps, self._backbone.router)
        return request.block_rows

    def _with_own_rows(self, lane: LaneInput, state: LaneState) -> LaneInput:
        """Return the input of a lane that computes a part of its rows, or all of them to keep what it computes."""
        assert state.own is not None
        if state.rows_by_block(state.step) != (state.tokens,):
            return replace(lane, reuse=state.own.reuse())
        cond, negative = state.own.capture(guided=lane.negative is not None)
        return replace(lane, capture=cond, capture_negative=negative)

    def rows(self, states: Sequence[LaneState]) -> int:
        """Return the token rows of a step of these lanes and of the template entries it has to fill."""
        entries = {key: work for state in states for key, work in self._entry_work(state, state.step).items()}
        missing = sum(work.rows for key, work in entries.items() if key not in self._templates)
        return missing + sum(self.work(state, state.step).rows for state in states)

    def _entry_work(self, state: LaneState, step: int) -> dict[str, StepWork]:
        references = reference_work(self._reference_step(state, step), self._backbone, self._templates)
        if state.edit is None or state.controls_at(step):
            return references
        guided = self._negative(state, step) is not None
        return references | priming_work(self._edit_step(state, step), self._backbone, self._templates, guided=guided)

    def _negative(self, state: LaneState, step: int) -> PreparedPrompt | None:
        """Return the negative prompt of a guided step, None in other steps."""
        return state.negative if state.is_guided(step) else None

    def _reference_step(self, state: LaneState, step: int) -> ReferenceStep:
        return ReferenceStep(state.references, state.adapters_at(step), state.request.guidance)

    def _edit_step(self, state: LaneState, step: int) -> EditStep:
        assert state.edit is not None
        return EditStep(state.edit, state.schedule, step, state.adapters_at(step), state.request.guidance)
