"""A step engine over lego-tiny's architecture, lanes for it, and faults of its backbone."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits, StepPlan
from lego_serve.core.scheduling.ordering import LANE_POLICIES
from lego_serve.engine.lane_state import LaneRequest, LaneResult, LaneState
from lego_serve.engine.step_engine import Outcome, StepEngine
from lego_serve.errors import LegoError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows
from lego_serve.models.sampling import FlowMatchTables


class Clock:
    """Time that moves a tenth of a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        self.now += 0.1
        return self.now


class Faulty:
    """A backbone that fails as told: for lanes of a certain guidance, or above so many lanes."""

    def __init__(self, inner: Backbone, *, poison: float | None = None, most: int | None = None, nan: bool = False):
        self._inner, self._poison, self._most, self._nan = inner, poison, most, nan
        self.shape, self.uses_cfg, self.bucket_rows = inner.shape, inner.uses_cfg, 1
        self.text_width, self.pooled_width, self.device = inner.text_width, inner.pooled_width, inner.device
        self.sizes: list[int] = []

    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """As the real one."""
        return self._inner.prepare(cond)

    def velocity_rows(self, lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        """As the real one, but for the faults."""
        self.sizes.append(len(lanes))
        if self._most is not None and len(lanes) > self._most:
            raise torch.OutOfMemoryError("out of memory")
        guilty = [lane.guidance == self._poison for lane in lanes]
        if any(guilty) and not self._nan:
            raise RuntimeError("a failing module")
        velocities = self._inner.velocity_rows(lanes)
        bad_or_not = zip(velocities, guilty, strict=True)
        return [replace(v, rows=v.rows * float("nan")) if bad else v for v, bad in bad_or_not]


class Failing:
    """An engine whose ``step`` raises by itself, which no single lane is to blame for."""

    def __init__(self, inner: StepEngine) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def step(self, plan: object = None) -> None:
        """Raise."""
        raise IndexError("a bookkeeping mistake")


class Gated:
    """An engine that takes three steps and no more until its gate is open."""

    def __init__(self, inner: StepEngine) -> None:
        self._inner, self.steps, self.gate = inner, 0, threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def step(self, plan: StepPlan) -> list[Outcome]:
        """Wait, then take it."""
        if self.steps >= 3:
            assert self.gate.wait(60)
        self.steps += 1
        return self._inner.step(plan)


class Noting:
    """An engine that says when it takes a lane."""

    def __init__(self, inner: StepEngine, note: Callable[[], object]) -> None:
        self._inner, self._note = inner, note

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def add(self, request: LaneRequest) -> LaneState:
        """Record it, then take it."""
        self._note()
        return self._inner.add(request)


def engine_of(model: tuple[Backbone, FlowMatchTables], order: str = "fifo", max_rows: int | None = None) -> StepEngine:
    """An engine over a backbone."""
    batcher = StepBatcher(LANE_POLICIES[order], StepLimits(float("inf"), max_rows))
    return StepEngine(model[0], model[1], batcher, Clock())


def request(key: str, seed: int = 1, **more: object) -> LaneRequest:
    """A lane drawn from a seed; small, four steps, guided."""
    draw = torch.Generator().manual_seed(seed)
    conds = [Conditioning(torch.randn(9, 192, generator=draw), torch.randn(192, generator=draw)) for _ in range(2)]
    settings = {"width": 96, "height": 112, "steps": 4, "guidance": 4.0} | more
    return LaneRequest(key=key, seed=seed, cond=conds[0], negative=conds[1], **settings)  # type: ignore[arg-type]


def run(engine: StepEngine) -> dict[str, LaneResult | LegoError]:
    """All outcomes until no lane is left."""
    found: dict[str, LaneResult | LegoError] = {}
    while engine.lanes:
        found |= dict(engine.step())
    return found


def latents(outcome: LaneResult | LegoError) -> torch.Tensor:
    """A good outcome's latents."""
    assert isinstance(outcome, LaneResult), outcome
    return outcome.latents


def alone(model: tuple[Backbone, FlowMatchTables], of: LaneRequest) -> torch.Tensor:
    """What a lane comes to by itself."""
    engine = engine_of(model)
    engine.add(of)
    return latents(run(engine)[of.key])
