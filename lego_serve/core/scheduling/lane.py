"""A lane as planners see it: where it stands and what its steps weigh."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.lora_mode import AdapterSet


@dataclass(slots=True)
class Lane:
    """One image being denoised: where it stands and what each of its steps weighs; its tensors live in the engine.

    ``suspect_until``: before this step it runs alone, since a replica died while it was there.  ``adapters`` are
    its sets by step, none where empty.  ``shared``: by step, what else must run in it unless it is kept from before or
    runs for another lane of the same pass.  ``expected`` weighs steps where deadlines are concerned, if not ``work``.
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
    adapters: tuple[AdapterSet | None, ...] = ()
    shared: tuple[Mapping[str, StepWork], ...] = ()
    expected: tuple[StepWork, ...] = field(default=(), repr=False)
    _left: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        # What is left from each step on: sums from the end.
        work = (self.expected or self.work)[::-1]
        rows, pairs = accumulate(float(step.rows) for step in work), accumulate(float(step.pairs) for step in work)
        self._left = tuple(zip(map(float, range(1, len(work) + 1)), rows, pairs, strict=True))[::-1]

    @property
    def steps(self) -> int:
        """Forward passes it takes in all."""
        return len(self.work)

    @property
    def steps_left(self) -> int:
        """Forward passes it still needs."""
        return len(self.work) - self.next_step

    @property
    def left(self) -> tuple[float, float, float]:
        """The steps, rows and pairs it still needs; floats, as they are only ever multiplied by rates."""
        return self._left[self.next_step]

    @property
    def adapter_set(self) -> AdapterSet | None:
        """The adapters of its next step."""
        return self.adapters[self.next_step] if self.adapters else None

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.next_step >= len(self.work)

    @property
    def is_suspect(self) -> bool:
        """Whether it must run alone."""
        return self.next_step < self.suspect_until


def with_missing(
    work: Sequence[StepWork], shared: Sequence[Mapping[str, StepWork]], kept: Container[str]
) -> tuple[StepWork, ...]:
    """The work of a lane's steps if it were alone, and what is shared and not kept all fell to it."""
    steps = zip(work, shared, strict=False)
    return tuple(sum((more for key, more in fill.items() if key not in kept), own) for own, fill in steps)
