"""The forward passes of one step: all its lanes in one batch, and in smaller batches where that fails.

Where memory runs out the batch is halved.  Where a ControlNet fails, the lanes that use it run one by one and the
others together.  After any other failure every lane runs alone.  So a lane fails alone or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lego_serve.core.scheduling.batching import StepBatcher
from lego_serve.core.scheduling.memory_limit import halve_batch
from lego_serve.engine.failures import failure_of, is_out_of_memory
from lego_serve.engine.lane_state import LaneState
from lego_serve.engine.sharing.branch_splitter import BranchSplitter
from lego_serve.engine.step.controlnet_waits import split_by_controlnet
from lego_serve.engine.step.lane_setup import LaneSetup
from lego_serve.engine.step.priming import PrimingBatch
from lego_serve.engine.template_store import TemplateStore
from lego_serve.errors import LegoError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetFailed, ControlNetUnavailable
from lego_serve.models.ragged.lane_input import VelocityRows

Batch = Sequence[LaneState]


@dataclass(slots=True)
class BatchOutcome:
    """The results of a step's passes, by lane key: a velocity, or the error of a lane that failed alone.

    A velocity is that of the rows that were computed; of a step on two replicas it is whole.

    A lane whose ControlNet cannot be reached has neither; its state says what it waits for.  ``is_typical``: the step
    ran as planned, in one pass, so that its time says what such a step takes.
    """

    velocities: dict[str, VelocityRows | torch.Tensor] = field(default_factory=dict)
    failures: dict[str, LegoError] = field(default_factory=dict)
    is_typical: bool = True


class BatchRunner:
    """Runs the lanes of a step through a backbone."""

    def __init__(
        self,
        backbone: Backbone,
        setup: LaneSetup,
        templates: TemplateStore,
        batcher: StepBatcher,
        clock: Callable[[], float],
        splitter: BranchSplitter | None = None,
    ) -> None:
        self._splitter = splitter
        self._backbone, self._setup, self._templates = backbone, setup, templates
        self._batcher, self._clock = batcher, clock

    def run(self, lanes: Batch, outcome: BatchOutcome) -> None:
        """Add the velocities and failures of these lanes to an outcome; lanes may be none."""
        if not lanes:
            return
        try:
            if self._split(lanes, outcome):
                return
            outcome.velocities |= self._forward(lanes)
            return
        except ControlNetUnavailable as error:
            batches = [self._suspend(lanes, error.name)]
        except Exception as error:
            batches = self._batches_after(error, lanes, outcome)
        outcome.is_typical = False
        # Not inside the handlers: there the error's traceback still holds the tensors of the pass that failed.
        for batch in batches:
            self.run(batch, outcome)

    def _split(self, lanes: Batch, outcome: BatchOutcome) -> bool:
        """Take a lone lane's step on two replicas, if that pays now; its time says nothing of steps on one."""
        if self._splitter is None or len(lanes) > 1 or self._batcher.is_suspect(lanes[0].request.key):
            return False
        state = lanes[0]
        if state.edit is not None or state.controls_at(state.step) or state.adapters:
            return False
        lane = self._setup.lane_input(state, PrimingBatch(self._backbone, self._templates, self._batcher.rates))
        work = self._setup.work(state, state.step)
        velocity = self._splitter.velocity(
            self._batcher.lanes, lane, self._batcher.rates.seconds(work.rows, work.pairs)
        )
        if velocity is None:
            return False
        state.steps_split += 1
        outcome.velocities[state.request.key] = velocity
        outcome.is_typical = False
        return True

    def _forward(self, lanes: Batch) -> dict[str, VelocityRows]:
        """Return the velocities of one pass over lanes and over the template entries that their edits still lack."""
        priming = PrimingBatch(self._backbone, self._templates, self._batcher.rates)
        try:
            inputs = [self._setup.lane_input(lane, priming) for lane in lanes]
            velocities = self._backbone.velocity_rows([*inputs, *priming.inputs])
        except BaseException:
            priming.abort()
            raise
        priming.commit()
        return dict(zip((lane.request.key for lane in lanes), velocities, strict=False))

    def _suspend(self, lanes: Batch, controlnet: str) -> Batch:
        """Let the lanes that use a ControlNet wait for it, and return the others."""
        using, others = split_by_controlnet(lanes, controlnet)
        for lane in using:
            lane.unavailable[controlnet] = self._clock()
        return others

    def _batches_after(self, error: Exception, lanes: Batch, outcome: BatchOutcome) -> list[Batch]:
        """Return the batches to run after a failed pass; a lane that was alone in it fails, and there are none."""
        keys = [lane.request.key for lane in lanes]
        if len(lanes) == 1:
            outcome.failures[keys[0]] = failure_of(error)
            return []
        if is_out_of_memory(error):
            retry = halve_batch(keys, self._setup.rows(lanes))
            self._batcher.limit_rows(retry.max_rows)
            by_key = dict(zip(keys, lanes, strict=True))
            return [[by_key[key] for key in part] for part in retry.parts]
        if isinstance(error, ControlNetFailed):  # a control image may be to blame
            using, others = split_by_controlnet(lanes, error.name)
            return [others, *([lane] for lane in using)]
        return [[lane] for lane in lanes]
