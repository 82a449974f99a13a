"""What a replica's steps are like, for other threads to read: each value is put in place whole, when a step ends."""

from collections import deque

from lego_serve.core.costs import Rates, StepWork, most_lanes
from lego_serve.core.nodes.requests import RunningStep
from lego_serve.core.scheduling.batching import StepLimits, StepPlan

FIRST_TOKENS = 16 * 16  # of the lane that room is counted in before any has run: the larger one of calibration
FIRST_TEXT_ROWS = 32


class StepGauges:
    """The lanes and seconds of the last steps, the step under way, and for how many lanes a step has room.

    ``room``: the most lanes, each as large as those of the last step are on average, that one step takes; 0 where
    nothing bounds it.
    """

    def __init__(self, branches: int, limits: StepLimits, rates: Rates) -> None:
        """``branches`` of guidance that a lane has."""
        self.recent_lanes: deque[int] = deque(maxlen=8)
        self.last_step_s = 0.0
        length = FIRST_TOKENS + FIRST_TEXT_ROWS
        self.room = room_of(StepWork(branches * length, branches * length * length), 1, limits, rates)
        self._under_way: tuple[float, float] | None = None  # when it began, and its predicted seconds

    def begin(self, started_s: float, predicted_s: float) -> None:
        """A step begins."""
        self._under_way = started_s, predicted_s

    def end(self) -> None:
        """The step under way has ended, or was broken off."""
        self._under_way = None

    def note(self, plan: StepPlan, took_s: float, limits: StepLimits, rates: Rates) -> None:
        """A step ran, and the next one will have these limits and rates."""
        self.recent_lanes.append(len(plan.keys))
        self.last_step_s = took_s
        self.room = room_of(plan.work, len(plan.keys), limits, rates)

    def running_step(self, now: float) -> RunningStep | None:
        """Return the step under way; None between two."""
        if (step := self._under_way) is None:
            return None
        return RunningStep(now - step[0], step[1])


def room_of(work: StepWork, lanes: int, limits: StepLimits, rates: Rates) -> int:
    """Return how many lanes a step takes that are as large as these on average, whose work together this is."""
    mean = StepWork(-(-work.rows // lanes), -(-work.pairs // lanes))
    return most_lanes(mean, rates, limits.seconds(rates), limits.max_rows) or 0
