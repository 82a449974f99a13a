"""The compute of one backbone: plan, forward, commit, over and over; synchronous, one thread, no Ray.

The batcher decides which lanes run; the engine keeps their tensors, on the model's device.  A lane fails alone: one
whose latents stop being finite, or whose forward pass fails when nothing else is in it.  Where memory is too short to
patch adapters into the weights they are grouped instead.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lego_serve.core.nodes.requests import RunningStep
from lego_serve.core.scheduling.batching import StepBatcher, StepPlan
from lego_serve.core.scheduling.lane import Lane, with_missing
from lego_serve.engine.failures import failure_of, is_out_of_memory, not_finite
from lego_serve.engine.lane_checkpoint import write_checkpoint
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult, LaneState
from lego_serve.engine.sharing.branch_splitter import BranchSplitter
from lego_serve.engine.step.advance import NanCheck, PassSize, advance
from lego_serve.engine.step.batch_runner import BatchOutcome, BatchRunner
from lego_serve.engine.step.controlnet_waits import timed_out, without_unavailable
from lego_serve.engine.step.gauges import StepGauges
from lego_serve.engine.step.lane_setup import LaneSetup
from lego_serve.engine.step.priming import EntrySize, entry_size
from lego_serve.engine.template_store import TemplateStore
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.ragged.device import wait_for
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.sampling import FlowMatchTables

log = logging.getLogger("lego_serve.engine")
Outcome = tuple[str, LaneResult | LegoError]
AGEING_S = 30.0  # after so long a lane without a deadline comes before what has just arrived


class StepEngine:
    """The lanes of one replica and the backbone that denoises them.

    ``controls`` are the ControlNets of this replica, by name; their owner may change them between steps, and a lane
    keeps those it was added with.
    """

    def __init__(
        self,
        backbone: Backbone,
        tables: FlowMatchTables,
        batcher: StepBatcher,
        clock: Callable[[], float],
        controls: Mapping[str, ControlNetSource] | None = None,
        templates: TemplateStore | None = None,
        model_revision: str = "",
        splitter: BranchSplitter | None = None,
    ) -> None:
        """``model_revision`` tells weights apart: lanes go on from checkpoints of the same ones alone.

        With a ``splitter`` a lane that is alone may have its guidance branches on two replicas.
        """
        self._backbone = backbone
        self._templates = templates or TemplateStore(0, clock)
        self._setup = LaneSetup(backbone, tables, {} if controls is None else controls, self._templates, model_revision)
        self._batcher, self._clock = batcher, clock
        self._runner = BatchRunner(backbone, self._setup, self._templates, batcher, clock, splitter)
        self._nan_check = NanCheck(backbone.device)
        self._states: dict[str, LaneState] = {}
        self._advanced: tuple[LaneState, ...] = ()
        self.gauges = StepGauges(2 if backbone.uses_cfg else 1, batcher.limits, batcher.rates)

    @property
    def uses_cfg(self) -> bool:
        """Whether guidance is classifier-free and needs a negative prompt."""
        return self._backbone.uses_cfg

    @property
    def lanes(self) -> int:
        """The number of lanes here, running or waiting."""
        return len(self._states)

    @property
    def templates(self) -> TemplateStore:
        """The templates whose activations this replica keeps."""
        return self._templates

    def entry_size(self, width: int, height: int) -> EntrySize:
        """Return the size of one entry of a template of so many pixels."""
        return entry_size(self._backbone, self._templates, width, height)

    @property
    def max_rows(self) -> int | None:
        """The rows that a step may have now; None where nothing bounds them."""
        return self._batcher.limits.max_rows

    @property
    def running_step(self) -> RunningStep | None:
        """The step under way, also where another thread asks; None between two."""
        return self.gauges.running_step(self._clock())

    @property
    def advanced(self) -> tuple[LaneState, ...]:
        """The lanes that took part in the last step and are still here."""
        return self._advanced

    def state(self, key: str) -> LaneState:
        """Return a lane's tensors and record.  Raises KeyError when it is not here."""
        return self._states[key]

    def is_suspect(self, key: str) -> bool:
        """Whether a lane must run its next step alone."""
        return self._batcher.is_suspect(key)

    def add(self, request: LaneRequest) -> LaneState:
        """Take a lane; it joins at the next step.

        Raises NodeError for a checkpoint that cannot be read or a ControlNet that is not here; RequestError where
        guidance and negative prompt do not fit the model, or a control image does not fit the image; InvalidAdapter
        for an adapter of another model; ValueError for a key that is taken.
        """
        now = self._clock()
        state = self._setup.new_state(request, now)
        adapter_sets = self._setup.set_adapters(state, request.adapters)
        work = tuple(self._setup.work(state, step) for step in range(state.schedule.steps))
        shared = self._setup.shared_work(state)
        lane = Lane(
            key=request.key,
            work=work,
            added_s=now,
            deadline_s=request.deadline_s,
            weight=request.weight,
            tenant=request.tenant,
            next_step=state.step,
            suspect_until=state.step + request.suspect_steps,
            adapters=adapter_sets,
            shared=shared,
            expected=with_missing(work, shared, self._templates),
        )
        self._batcher.add(lane)
        self._states[request.key] = state
        state.expect_adapters(request.wait_for_adapters_at)
        if state.is_waiting:
            self._batcher.pause(request.key)  # it keeps its place in the order
        return state

    def use_router(self, router: BlockRouter) -> None:
        """Choose rows with another router from the next step on, where lanes have rows per block."""
        self._backbone.router = router

    def adapt(self, key: str, adapters: tuple[AdapterUse, ...]) -> None:
        """Give a lane other adapters from its next step on, such as those that were loading when it was added.

        Raises KeyError when the lane is not here; InvalidAdapter and RequestError as ``add`` does.
        """
        state = self._states[key]
        adapter_sets = self._setup.set_adapters(state, adapters)
        self._batcher.set_adapters(key, adapter_sets, self._setup.shared_work(state))
        if state.wait_for_adapters_at is not None:
            state.wait_for_adapters_at = None
            self._sync_pause(state)

    def cancel(self, key: str) -> bool:
        """Drop a lane between steps; False when it is not here."""
        self._batcher.cancel(key)
        return self._states.pop(key, None) is not None

    def pause(self, key: str) -> bool:
        """Keep a lane but do not run it; False when it is not here."""
        return self._set_paused(key, True)

    def resume(self, key: str) -> bool:
        """Run a paused lane on from where it stands; False when it is not here."""
        return self._set_paused(key, False)

    def checkpoint(self, key: str) -> bytes:
        """Return the whole state of a lane between two steps.  Raises KeyError when it is not here."""
        return write_checkpoint(self._states[key])

    def plan(self) -> StepPlan | None:
        """Return what the next step will run, or None where no lane can run."""
        return self._batcher.plan(self._clock(), self._templates)

    def due_s(self, plan: StepPlan) -> float:
        """When the first of a plan's lanes must have ended; for one without a deadline, AGEING_S after it came."""
        lanes = [self._states[key] for key in plan.keys]
        dues = [
            lane.added_s + AGEING_S if lane.request.deadline_s is None else lane.request.deadline_s for lane in lanes
        ]
        return min(dues, default=self._clock())

    def step(self, plan: StepPlan | None = None) -> list[Outcome]:
        """Run one step of the lanes of a plan, the batcher's next one without; return the lanes that ended in it."""
        started_s = self._clock()
        plan = plan or self._batcher.plan(started_s, self._templates)
        if plan is None:
            self._advanced = ()
            return []
        batch = BatchOutcome()
        self.gauges.begin(started_s, self._batcher.rates.seconds(plan.work.rows, plan.work.pairs) + plan.extra_s)
        try:
            plan = self._patch_adapters(plan, batch)
            self._advance(plan, started_s, batch)
            self._drop_broken(plan.keys, batch.failures)
        finally:
            self.gauges.end()
        now = self._clock()
        completed = without_unavailable(plan, self._states)
        is_typical = batch.is_typical and completed is plan
        finished = self._batcher.commit(completed, started_s, now, typical=is_typical)
        self.gauges.note(plan, now - started_s, self._batcher.limits, self._batcher.rates)
        outcomes: list[Outcome] = list(batch.failures.items())
        outcomes += [(lane.key, self._finish(lane.key, now)) for lane in finished if lane.key not in batch.failures]
        self._advanced = tuple(self._states[key] for key in completed.keys if key in self._states)
        return outcomes

    def controlnet_back(self, name: str) -> None:
        """Run the lanes on that waited for a ControlNet, which can be reached again."""
        for state in self._states.values():
            if state.unavailable.pop(name, None) is not None:
                self._sync_pause(state)

    def controlnet_unavailable(self, name: str, longest_s: float) -> list[Outcome]:
        """Drop and return the lanes that have waited longer than this for a ControlNet, which is still unreachable."""
        late = timed_out(self._states.values(), name, self._clock() - longest_s)
        for key in late:
            self.cancel(key)
        message = f"ControlNet {name} could not be reached for {longest_s:g} s."
        return [(key, NodeError(message, code="controlnet_late")) for key in late]

    def _set_paused(self, key: str, paused: bool) -> bool:
        state = self._states.get(key)
        if state is None:
            return False
        state.is_paused = paused
        self._sync_pause(state)
        return True

    def _sync_pause(self, state: LaneState) -> None:
        """Update in the batcher whether a lane may run."""
        if state.is_waiting:
            self._batcher.pause(state.request.key)
        else:
            self._batcher.resume(state.request.key)

    def _finish(self, key: str, now: float) -> LaneResult | LegoError:
        state = self._states.pop(key)
        try:
            return state.result(now)
        except NodeError as error:
            self._drop_template_entries(state)
            return error

    def _patch_adapters(self, plan: StepPlan, batch: BatchOutcome) -> StepPlan:
        """Patch a plan's adapter set into the weights; return the plan, to be run grouped where memory was too short.

        Any other failure is the set's doing: all lanes of the plan, which have this set, fail.
        """
        if plan.patched is None:
            return plan
        first = self._states[plan.keys[0]]
        try:
            self._backbone.adapters.patch(first.adapters_at(first.step))
        except Exception as error:
            batch.is_typical = False
            if is_out_of_memory(error):
                log.warning("no memory to patch adapters: they are grouped for a while")
                self._batcher.group_adapters()
            else:
                batch.failures.update({key: failure_of(error) for key in plan.keys})
            return replace(plan, patched=None)
        return plan

    def _advance(self, plan: StepPlan, started_s: float, batch: BatchOutcome) -> None:
        """Take a step of the plan's lanes; drop those that have failed or fail now, pause those that must wait."""
        self._runner.run([self._states[key] for key in plan.keys if key not in batch.failures], batch)
        wait_for(self._backbone.device)
        took_s = self._clock() - started_s
        for key in plan.keys:
            if key in batch.failures:
                self.cancel(key)
                continue
            state = self._states[key]
            if not state.unavailable:
                advance(state, batch.velocities[key], started_s, took_s, PassSize(len(plan.keys), plan.work.rows))
            if state.is_waiting:
                self._batcher.pause(key)

    def _drop_broken(self, keys: Sequence[str], failures: dict[str, LegoError]) -> None:
        """Drop the lanes of a step whose latents are no finite numbers; nothing of them is in the other lanes."""
        latents = {key: self._states[key].latents for key in keys if key in self._states}
        for key in self._nan_check.broken(latents):
            failures[key] = not_finite()
            self._drop_template_entries(self._states[key])
            self.cancel(key)

    def _drop_template_entries(self, state: LaneState) -> None:
        """Forget what a broken lane read of others, for it may have been broken before: the next reader primes."""
        if state.edit is not None:
            self._templates.drop(state.edit.edit.template.key)
        for reference in state.references:
            self._templates.drop(reference.key)
