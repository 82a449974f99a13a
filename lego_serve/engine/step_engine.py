"""One backbone's compute: plan, forward, commit, over and over; synchronous, one thread, no Ray.

The batcher decides which lanes run; the engine keeps their tensors, on the model's device.  A lane whose latents
stop being finite, or whose forward pass fails when it runs alone, fails alone.  Where memory runs out
the batch is halved and run again before any lane fails, and adapters are grouped where patching has no room.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepPlan
from lego_serve.core.scheduling.lane import Lane, with_missing
from lego_serve.engine.advance import NanCheck, advance
from lego_serve.engine.controlnet_waits import split_by_controlnet, timed_out, without_unavailable
from lego_serve.engine.edits import EntrySize, PrimingBatch, entry_size
from lego_serve.engine.failures import failure_of, is_memory, not_finite
from lego_serve.engine.lane_setup import LaneSetup
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult, LaneState, write_checkpoint
from lego_serve.engine.template_store import TemplateStore
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetFailed, ControlNetSource, ControlNetUnavailable
from lego_serve.models.sampling import FlowMatchTables

log = logging.getLogger("lego_serve.engine")
Outcome = tuple[str, LaneResult | LegoError]


class StepEngine:
    """The lanes of one replica and the backbone that denoises them.

    ``controls`` are the ControlNets it knows, by name; its owner may change them between steps, and a lane
    keeps those it came with.
    """

    def __init__(
        self,
        backbone: Backbone,
        tables: FlowMatchTables,
        batcher: StepBatcher,
        clock: Callable[[], float],
        controls: Mapping[str, ControlNetSource] | None = None,
        templates: TemplateStore | None = None,
    ) -> None:
        self._backbone = backbone
        self._templates = templates or TemplateStore(0, clock)
        self._preparation = LaneSetup(backbone, tables, {} if controls is None else controls, self._templates)
        self._batcher, self._clock = batcher, clock
        self._finite = NanCheck(backbone.device)
        self._states: dict[str, LaneState] = {}
        self._ran: tuple[LaneState, ...] = ()
        self._as_planned = True  # whether the step under way came through in one pass of what was planned

    @property
    def uses_cfg(self) -> bool:
        """Whether guidance here is classifier-free, and needs a negative prompt."""
        return self._backbone.uses_cfg

    @property
    def lanes(self) -> int:
        """Lanes in hand."""
        return len(self._states)

    @property
    def templates(self) -> TemplateStore:
        """What is kept of templates here."""
        return self._templates

    def entry_size(self, width: int, height: int) -> EntrySize:
        """What one entry of a template of so many pixels takes here."""
        return entry_size(self._backbone, self._templates, width, height)

    @property
    def max_rows(self) -> int | None:
        """The rows a step may have now; None where nothing bounds them."""
        return self._batcher.limits.max_rows

    @property
    def advanced(self) -> tuple[LaneState, ...]:
        """The lanes that took part in the last step and are still here."""
        return self._ran

    def state(self, key: str) -> LaneState:
        """A lane's tensors and record.  KeyError when it is not here."""
        return self._states[key]

    def is_suspect(self, key: str) -> bool:
        """Whether a lane must run its next step alone."""
        return self._batcher.is_suspect(key)

    def add(self, request: LaneRequest) -> LaneState:
        """Take a lane; it joins at the next step.

        Raises NodeError for a checkpoint it cannot read or a ControlNet that is not here; RequestError when its
        guidance and its negative prompt do not fit the model, or a control image not the image;
        InvalidAdapter for an adapter of another model; ValueError when its key is known.
        """
        now = self._clock()
        state = self._preparation.state(request, now)
        adapters = self._preparation.take_adapters(state, request.adapters)
        until = state.step + request.suspect_steps
        work = tuple(self._preparation.work(state, step) for step in range(state.schedule.steps))
        shared = self._preparation.shared(state)
        lane = Lane(
            request.key, work, now, request.deadline_s, request.weight, state.step, until, adapters=adapters,
            shared=shared, expected=with_missing(work, shared, self._templates),
        )  # fmt: skip
        self._batcher.add(lane)
        self._states[request.key] = state
        state.hold(request.wait_for_adapters_at)
        if state.is_waiting:
            self._batcher.pause(request.key)  # it keeps its place in the order
        return state

    def adapt(self, key: str, adapters: tuple[AdapterUse, ...]) -> None:
        """Give a lane other adapters from its next step on, such as one that was still loading when it began.

        Raises KeyError when the lane is not here; InvalidAdapter or RequestError as ``add`` does.
        """
        state = self._states[key]
        taken = self._preparation.take_adapters(state, adapters)
        self._batcher.set_adapters(key, taken, self._preparation.shared(state))
        if state.wait_for_adapters_at is not None:
            state.wait_for_adapters_at = None
            self._follow(state)

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
        """The whole state of a lane between two steps.  KeyError when it is not here."""
        return write_checkpoint(self._states[key])

    def plan(self) -> StepPlan | None:
        """What the next step will run."""
        return self._batcher.plan(self._clock(), self._templates)

    def step(self, plan: StepPlan | None = None) -> list[Outcome]:
        """Run one step of the lanes the batcher chooses (or chose); answers the lanes that ended in it."""
        started = self._clock()
        plan = plan or self._batcher.plan(started, self._templates)
        if plan is None:
            self._ran = ()
            return []
        self._as_planned = True
        failures: dict[str, LegoError] = {}
        plan = self._patch(plan, failures)
        self._run(plan, started, failures)
        self._end_broken(plan.keys, failures)
        now = self._clock()
        went_on = without_unavailable(plan, self._states)
        finished = self._batcher.commit(went_on, started, now, typical=self._as_planned and went_on is plan)
        outcomes: list[Outcome] = list(failures.items())
        outcomes += [(lane.key, self._end(lane.key, now)) for lane in finished if lane.key not in failures]
        self._ran = tuple(self._states[key] for key in went_on.keys if key in self._states)
        return outcomes

    def controlnet_back(self, name: str) -> None:
        """Run the lanes on that wait for a ControlNet."""
        for state in self._states.values():
            if state.unavailable.pop(name, None) is not None:
                self._follow(state)

    def controlnet_unavailable(self, name: str, longest_s: float) -> list[Outcome]:
        """Drop the lanes that have waited for a ControlNet for longer; answers them."""
        late = timed_out(self._states.values(), name, self._clock() - longest_s)
        for key in late:
            self.cancel(key)
        said = f"ControlNet {name} could not be reached for {longest_s:g} s."
        return [(key, NodeError(said, code="controlnet_late")) for key in late]

    def _set_paused(self, key: str, paused: bool) -> bool:
        state = self._states.get(key)
        if state is None:
            return False
        state.is_paused = paused
        self._follow(state)
        return True

    def _follow(self, state: LaneState) -> None:
        """Let the batcher run a lane or not, as it stands now."""
        (self._batcher.pause if state.is_waiting else self._batcher.resume)(state.request.key)

    def _end(self, key: str, now: float) -> LaneResult | LegoError:
        state = self._states.pop(key)
        try:
            return state.result(now)
        except NodeError as error:
            self._distrust(state)
            return error

    def _patch(self, plan: StepPlan, failures: dict[str, LegoError]) -> StepPlan:
        """The plan with its set in the weights; where memory is too short for that, to be run grouped.

        What else goes wrong is the set's doing: its lanes, which are all of the plan's, fail.
        """
        if plan.patched is None:
            return plan
        first = self._states[plan.keys[0]]
        try:
            self._backbone.adapters.patch(first.adapters_at(first.step))
        except Exception as error:
            self._as_planned = False
            if is_memory(error):
                log.warning("no memory to patch adapters: they are grouped for a while")
                self._batcher.group_adapters()
            else:
                failures.update({key: failure_of(error) for key in plan.keys})
            return replace(plan, patched=None)
        return plan

    def _run(self, plan: StepPlan, started: float, failures: dict[str, LegoError]) -> None:
        """Advance the plan's lanes, but for those that have failed or fail now, which are dropped."""
        keys = [key for key in plan.keys if key not in failures]
        velocities = self._velocities(keys, failures) if keys else {}
        took = self._clock() - started
        for key in plan.keys:
            if key in failures:
                self.cancel(key)
                continue
            state = self._states[key]
            if state.unavailable:
                continue
            advance(state, velocities[key], started, took, len(plan.keys))
            if state.is_held:
                self._batcher.pause(key)

    def _end_broken(self, keys: Sequence[str], failures: dict[str, LegoError]) -> None:
        """Drop the lanes of a step that have come to hold what is no number; their mates hold none of it."""
        latents = {key: self._states[key].latents for key in keys if key in self._states}
        for key in self._finite.broken(latents):
            failures[key] = not_finite()
            self._distrust(self._states[key])
            self.cancel(key)

    def _distrust(self, state: LaneState) -> None:
        """What a broken lane read of its template may have been broken before it: the next edit primes anew."""
        if state.edit is not None:
            self._templates.drop(state.edit.edit.template.key)

    def _velocities(self, keys: Sequence[str], failures: dict[str, LegoError]) -> dict[str, torch.Tensor]:
        try:
            return self._together([self._states[key] for key in keys])
        except ControlNetUnavailable as error:
            using, rest = split_by_controlnet(self._states, keys, error.name)
            for state in using:
                state.unavailable[error.name] = self._clock()
                self._follow(state)
            return self._velocities(rest, failures) if rest else {}
        except Exception as error:
            if len(keys) == 1:
                failures[keys[0]] = failure_of(error)
                return {}
            if isinstance(error, ControlNetFailed) and not is_memory(error):
                return self._without(error.name, keys, failures)
            for_memory = is_memory(error)
        # Too large a batch is halved; any other failure is one lane's: each runs alone, and the guilty one fails.
        size = -(-len(keys) // 2) if for_memory else 1
        if for_memory:
            self._batcher.limit_rows(self._preparation.rows([self._states[key] for key in keys]) // 2)
        parts = [keys[at : at + size] for at in range(0, len(keys), size)]
        together: dict[str, torch.Tensor] = {}
        for part in parts:
            together |= self._velocities(part, failures)
        return together

    def _together(self, states: Sequence[LaneState]) -> dict[str, torch.Tensor]:
        """One forward pass over these lanes, and over what their edits read of templates and is not there yet."""
        priming = PrimingBatch(self._backbone, self._templates, self._batcher.rates)
        try:
            inputs = [self._preparation.input(state, priming) for state in states]
            said = self._backbone.velocity([*inputs, *priming.inputs])
        except BaseException:
            self._as_planned = False
            priming.abort()
            raise
        priming.commit()
        return dict(zip((state.request.key for state in states), said, strict=False))

    def _without(self, name: str, keys: Sequence[str], failures: dict[str, LegoError]) -> dict[str, torch.Tensor]:
        """Lanes without a ControlNet that failed together, those with it one by one: an image may be to blame."""
        using, rest = split_by_controlnet(self._states, keys, name)
        together = self._velocities(rest, failures) if rest else {}
        for state in using:
            together |= self._velocities([state.request.key], failures)
        return together
