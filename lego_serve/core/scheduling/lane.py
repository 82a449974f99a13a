"""A lane as the scheduler sees it: its next step and the work of its steps."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.lora_mode import AdapterSet


@dataclass(slots=True)
class Lane:
    """One image being denoised: its next step and the work of each step; its tensors live in the engine.

    ``suspect_until``: the lane runs alone before this step, since a replica died while running it.  ``adapters``: its
    adapter set by step; empty for none.  ``shared``: by step, the priming work it needs, by cache key; the step skips
    what is cached already or runs for another lane of the same pass.  ``expected``: the work of the steps for deadlines
    and ordering, if not ``work``.
    """

    key: str
    work: tuple[StepWork, ...]
    added_s: float
    deadline_s: float | None = None
    weight: float = 1.0
    next_step: int = 0
    suspect_until: int = 0
    started_s: float | None = None
    is_paused: bool = False
    tenant: str = "default"
    adapters: tuple[AdapterSet | None, ...] = ()
    shared: tuple[Mapping[str, StepWork], ...] = ()
    expected: tuple[StepWork, ...] = field(default=(), repr=False)
    _remaining: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        # Steps, rows and pairs that remain from each step on: sums from the end.
        work = (self.expected or self.work)[::-1]
        rows, pairs = accumulate(float(step.rows) for step in work), accumulate(float(step.pairs) for step in work)
        self._remaining = tuple(zip(map(float, range(1, len(work) + 1)), rows, pairs, strict=True))[::-1]

    @property
    def steps(self) -> int:
        """The number of its steps, each a forward pass."""
        return len(self.work)

    @property
    def steps_left(self) -> int:
        """The number of steps still to run."""
        return len(self.work) - self.next_step

    @property
    def left(self) -> tuple[float, float, float]:
        """The steps, rows and pairs still to run; floats, since they are only multiplied by rates."""
        return self._remaining[self.next_step]

    @property
    def cost(self) -> float:
        """What its next step takes of its tenant's share: its rows, in proportion to its pixels, by the weight."""
        return self.work[self.next_step].rows / self.weight

    @property
    def adapter_set(self) -> AdapterSet | None:
        """The adapter set of its next step."""
        return self.adapters[self.next_step] if self.adapters else None

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.next_step >= len(self.work)

    @property
    def is_suspect(self) -> bool:
        """Whether its next step must run alone."""
        return self.next_step < self.suspect_until


def with_missing(
    work: Sequence[StepWork], shared: Sequence[Mapping[str, StepWork]], cached: Container[str]
) -> tuple[StepWork, ...]:
    """Return the work of a lane's steps with all shared work that is not cached, as if the lane ran alone."""
    steps = zip(work, shared, strict=False)
    return tuple(sum((extra for key, extra in fill.items() if key not in cached), own) for own, fill in steps)
