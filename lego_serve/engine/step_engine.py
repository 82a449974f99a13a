"""One backbone's compute: plan, forward, commit, over and over; synchronous, one thread, no Ray.

The batcher decides which lanes run; the engine keeps their tensors.  A lane whose latents stop
being finite, or whose forward pass fails when it runs alone, fails alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lego_serve.core.batching import Lane, StepBatcher, StepPlan
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.base import Backbone, Conditioning, ImageLatents, LaneInput
from lego_serve.models.sampling import FlowMatchSampler, euler_step


@dataclass(frozen=True, slots=True)
class LaneRequest:
    """One image to denoise; times are on the engine's clock."""

    key: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    cond: Conditioning
    negative: Conditioning | None
    init: ImageLatents | None = None
    strength: float = 1.0
    deadline_s: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LaneResult:
    """Denoised latents (channels, height, width), fp32, and what each step took and shared."""

    latents: torch.Tensor
    queue_s: float
    run_s: float
    step_s: tuple[float, ...]
    step_lanes: tuple[int, ...]


Outcome = tuple[str, LaneResult | LegoError]


@dataclass(slots=True)
class _State:
    """A lane's tensors and record."""

    request: LaneRequest
    latents: torch.Tensor
    sigmas: tuple[float, ...]
    added_s: float
    started_s: float = math.nan
    step_s: list[float] = field(default_factory=list)
    step_lanes: list[int] = field(default_factory=list)


class StepEngine:
    """The lanes of one replica and the backbone that denoises them."""

    def __init__(
        self, backbone: Backbone, sampler: FlowMatchSampler, batcher: StepBatcher, clock: Callable[[], float]
    ) -> None:
        self._backbone, self._sampler = backbone, sampler
        self._batcher, self._clock = batcher, clock
        self._states: dict[str, _State] = {}

    @property
    def lanes(self) -> int:
        """Lanes in hand."""
        return len(self._states)

    def add(self, request: LaneRequest) -> None:
        """Take a lane; it joins at the next step.  ValueError when its key is known."""
        shape = self._backbone.shape
        tokens = shape.tokens(request.width, request.height)
        start = self._sampler.start(
            shape.of(request.width, request.height), request.seed, request.steps, tokens, request.init, request.strength
        )
        now = self._clock()
        guided = request.negative is not None and request.guidance > 1
        rows = tokens + request.cond.tokens.shape[0]
        if guided and request.negative is not None:
            rows += tokens + request.negative.tokens.shape[0]
        self._batcher.add(Lane(request.key, start.steps, rows, now, request.deadline_s, request.weight))
        self._states[request.key] = _State(request, start.latents, start.sigmas, now)

    def cancel(self, key: str) -> bool:
        """Drop a lane between steps; False when it is not here."""
        self._batcher.cancel(key)
        return self._states.pop(key, None) is not None

    def step(self) -> list[Outcome]:
        """Run one step of the lanes the batcher chooses; answers the lanes that ended in it."""
        started = self._clock()
        plan = self._batcher.plan(started)
        if plan is None:
            return []
        failures = self._run(plan, started)
        now = self._clock()
        finished = self._batcher.commit(plan, started, now)
        outcomes: list[Outcome] = [(key, error) for key, error in failures.items()]
        for lane in finished:
            if lane.key not in failures:
                outcomes.append((lane.key, self._result(self._states.pop(lane.key), now)))
        return outcomes

    def _run(self, plan: StepPlan, started: float) -> dict[str, LegoError]:
        """Advance the plan's lanes; answers those that failed, which are dropped."""
        failures: dict[str, LegoError] = {}
        velocities = self._velocities(plan, failures)
        took = self._clock() - started
        for key, step in zip(plan.keys, plan.steps, strict=True):
            if key in failures:
                self.cancel(key)
                continue
            state = self._states[key]
            sigma, after = state.sigmas[step], state.sigmas[step + 1]
            state.latents = euler_step(state.latents, velocities[key], sigma, after)
            state.started_s = started if math.isnan(state.started_s) else state.started_s
            state.step_s.append(took)
            state.step_lanes.append(len(plan.keys))
            if step + 2 == len(state.sigmas) and not bool(torch.isfinite(state.latents).all()):
                failures[key] = NodeError("The image's latents are not finite numbers.", code="not_finite")
                self.cancel(key)
        return failures

    def _velocities(self, plan: StepPlan, failures: dict[str, LegoError]) -> dict[str, torch.Tensor]:
        try:
            said = self._backbone.velocity([self._input(k, s) for k, s in zip(plan.keys, plan.steps, strict=True)])
            return dict(zip(plan.keys, said, strict=True))
        except Exception as error:
            if len(plan.keys) == 1:
                failures[plan.keys[0]] = NodeError(f"The denoising step failed: {type(error).__name__}.")
                failures[plan.keys[0]].__cause__ = error
                return {}
        # One lane of several is to blame: each runs alone, and only the guilty one fails.
        alone: dict[str, torch.Tensor] = {}
        for key, step in zip(plan.keys, plan.steps, strict=True):
            alone |= self._velocities(StepPlan((key,), (step,), 0), failures)
        return alone

    def _input(self, key: str, step: int) -> LaneInput:
        state = self._states[key]
        request = state.request
        return LaneInput(state.latents, state.sigmas[step], request.guidance, request.cond, request.negative)

    def _result(self, state: _State, now: float) -> LaneResult:
        return LaneResult(
            state.latents.cpu(),
            state.started_s - state.added_s,
            now - state.started_s,
            tuple(state.step_s),
            tuple(state.step_lanes),
        )
