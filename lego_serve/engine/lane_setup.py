"""From a request to a lane: what is checked and computed once, what each of its steps weighs and brings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.lora_mode import AdapterSet
from lego_serve.engine.controlnets import prepare_controlnets
from lego_serve.engine.edits import EditStep, PrimingBatch, prepare_edit, priming_work, start_edit
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneState, read_checkpoint
from lego_serve.engine.template_store import TemplateStore
from lego_serve.models.lora.adapter import check_uses, key_of
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import FlowMatchTables


class LaneSetup:
    """What one backbone needs to know of lanes before they run."""

    def __init__(
        self,
        backbone: Backbone,
        tables: FlowMatchTables,
        controls: Mapping[str, ControlNetSource],
        templates: TemplateStore,
    ) -> None:
        self._backbone, self._tables, self._controls, self._templates = backbone, tables, controls, templates

    def state(self, request: LaneRequest, now: float) -> LaneState:
        """A lane before its first step.  Raises what ``StepEngine.add`` does."""
        request.check_negative(uses_cfg=self._backbone.uses_cfg)
        size = request.width, request.height
        shape = self._backbone.shape
        schedule = self._tables.schedule(request.sampler, request.steps, shape.tokens(*size))
        edit = None
        if request.edit is None:
            start = self._tables.start(shape.of(*size), request.seed, schedule, request.init, request.strength)
            latents, schedule = start.latents, start.schedule
        else:
            schedule = schedule.shortened(request.strength)
            negative = request.negative if request.guidance > 1 else None
            edit = prepare_edit(request.edit, self._backbone, self._templates, size, schedule.steps, negative)
            latents = start_edit(request.edit, request.seed, schedule)
        cond = self._backbone.prepare(request.cond)
        other = None if request.negative is None else self._backbone.prepare(request.negative)
        device = self._backbone.device  # where a lane stays: steps move nothing, only what is asked for is fetched
        state = LaneState(request, cond, other, latents.to(device), schedule, request.steps - schedule.steps, now)
        state.edit, state.is_paused = edit, request.is_paused
        state.controls = prepare_controlnets(
            request.controls, self._controls, size, shape, request.cond, request.negative
        )
        if request.checkpoint is not None:
            state.resume(read_checkpoint(request.checkpoint, shape.of(*size)).on(device))
        return state

    def take_adapters(self, state: LaneState, adapters: tuple[AdapterUse, ...]) -> tuple[AdapterSet | None, ...]:
        """Check a lane's adapters, and name its set in each step; empty without any."""
        check_uses([(use.adapter.adapter_id, use.scale) for use in adapters])
        mine = tuple(replace(use, adapter=use.adapter.part("transformer")) for use in adapters)
        for use in mine:
            self._backbone.adapters.check(use.adapter)
        state.adapters = tuple(use for use in mine if use.adapter.pairs)
        if not state.adapters:
            return ()
        by_step = [state.adapters_at(step) for step in range(state.schedule.steps)]
        sets = {key_of(uses): uses for uses in by_step}
        weighed = {key: self._backbone.adapters.weigh(uses) if uses else None for key, uses in sets.items()}
        return tuple(weighed[key_of(uses)] for uses in by_step)

    def work(self, state: LaneState, step: int) -> StepWork:
        """What a lane brings to one of its steps: both branches where it is guided there, and its ControlNets."""
        request = state.request
        tokens = self._backbone.shape.tokens(request.width, request.height)
        if state.edit is None or state.controls_at(step):
            return state.work(step, tokens, uses_cfg=self._backbone.uses_cfg)
        negative = self._negative(state, step)
        text_rows = [int(cond.tokens.shape[0]) for cond in (state.cond, negative) if cond is not None]
        return state.edit.work(step, tokens, text_rows)

    def shared(self, state: LaneState) -> tuple[Mapping[str, StepWork], ...]:
        """By step, the entries of its template that it reads, and what it takes to fill each where it is not kept."""
        return () if state.edit is None else tuple(self._entries(state, step) for step in range(state.schedule.steps))

    def input(self, state: LaneState, priming: PrimingBatch) -> LaneInput:
        """What a lane brings to its next step; what it reads of its template is put into ``priming``."""
        negative = self._negative(state, state.step)
        guided = negative is not None
        lane = LaneInput(
            state.latents,
            state.schedule.times[state.step],
            state.request.guidance,
            state.cond,
            negative,
            tuple(control.input(state.step, guided=guided) for control in state.controls_at(state.step)),
            state.adapters_at(state.step),
        )
        if state.edit is None or lane.controls:  # a ControlNet's residuals are for whole images
            return lane
        primed, evicted = len(priming.filling), self._templates.evicted
        reuse = priming.reuse(self._at(state, state.step), guided=guided)
        state.primed += len(priming.filling) - primed
        state.evicted += self._templates.evicted - evicted
        return replace(lane, reuse=reuse)

    def rows(self, states: Sequence[LaneState]) -> int:
        """Token rows of the next step of these lanes."""
        entries = {key: work for state in states for key, work in self._entries(state, state.step).items()}
        missing = sum(work.rows for key, work in entries.items() if key not in self._templates)
        return missing + sum(self.work(state, state.step).rows for state in states)

    def _entries(self, state: LaneState, step: int) -> Mapping[str, StepWork]:
        if state.edit is None or state.controls_at(step):
            return {}
        guided = self._negative(state, step) is not None
        return priming_work(self._at(state, step), self._backbone, self._templates, guided=guided)

    def _negative(self, state: LaneState, step: int) -> PreparedPrompt | None:
        """The other prompt of a step, where there is one and the step is guided."""
        return state.negative if state.request.is_guided(state.skipped + step) else None

    def _at(self, state: LaneState, step: int) -> EditStep:
        assert state.edit is not None
        return EditStep(state.edit, state.schedule, step, state.adapters_at(step), state.request.guidance)
