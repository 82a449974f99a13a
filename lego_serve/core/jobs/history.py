"""What happened to each job: its nodes in time, the replicas it was on, its steps, and how it ended.

Jobs in flight and the last ones that ended are kept, without what they were asked for in words: no prompt, no image.
All times are seconds on the clock of the coordinator that owns the jobs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lego_serve.core.jobs.events import Command, Dispatch, Event, Fail, Finish, JobSubmitted, TaskDone
from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.core.jobs.recovery import Change
from lego_serve.core.values import whole_bytes_of

ENDED_KEPT = 2000
OK = "ok"
# Inputs that are shown as they are; of the others no value is kept.
SHOWN = ("width", "height", "steps", "guidance", "seed", "n", "sampler", "strength", "guidance_start", "guidance_end")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A replica that had a denoising call, since when, and how it let go of it; empty while it has it."""

    replica: str
    at_s: float
    end_s: float | None = None
    end: Literal["", "moved", "lost"] = ""
    step: int = 0  # of its slowest image, as far as it was told


@dataclass(frozen=True, slots=True)
class Span:
    """A node of a job: when it was dispatched and done, what it cost, and the replicas it was on.

    ``bytes``: of the arrays that it made for the nodes after it.
    """

    node: str
    kind: str
    model: str
    from_s: float
    to_s: float | None = None
    stats: TaskStats | None = None
    attempts: tuple[Attempt, ...] = ()
    bytes: int = 0

    @property
    def sent_s(self) -> float:
        """The seconds that its call spent neither waiting nor running: on the way to its replica and back."""
        if self.to_s is None or self.stats is None:
            return 0.0
        return max(0.0, self.to_s - self.from_s - self.stats.queue_s - self.stats.run_s)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as it is now, or as it ended."""

    id: str
    workflow: str
    tenant: str
    began_s: float
    parameters: Mapping[str, object] = field(default_factory=dict)
    addons: tuple[tuple[str, str], ...] = ()  # ("lora" or "controlnet", its name)
    is_edit: bool = False
    deadline_s: float | None = None
    spans: Mapping[str, Span] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)  # done, by image
    of_steps: int = 0
    eta_s: float | None = None
    told_s: float = 0.0  # when the last step was told of
    is_paused: bool = False
    pauses: tuple[tuple[float, float | None], ...] = ()  # from when to when it was paused; None while it is
    outcome: str = ""  # empty in flight; OK, or an error's code
    message: str = ""
    ended_s: float | None = None
    number: int = 0  # of those that have ended, in their order

    @property
    def step(self) -> int:
        """The steps done by its slowest image, as far as is known."""
        return min(self.steps.values(), default=0)

    @property
    def replica(self) -> str | None:
        """The replica that has it, or had it last."""
        attempts = [attempt for span in self.spans.values() for attempt in span.attempts]
        return attempts[-1].replica if attempts else None

    @property
    def is_waiting(self) -> bool:
        """Whether it has made no step, of those that it is to make."""
        return self.ended_s is None and self.step == 0


class History:
    """The jobs of one coordinator."""

    def __init__(self, kept: int = ENDED_KEPT) -> None:
        self._live: dict[str, JobRecord] = {}
        self._ended: deque[JobRecord] = deque(maxlen=kept)
        self._number = 0
        self.on_begun: Callable[[JobRecord], None] = lambda record: None
        self.on_ended: Callable[[JobRecord], None] = lambda record: None
        self.on_change: Callable[[], None] = lambda: None  # of more than steps

    @property
    def live(self) -> Sequence[JobRecord]:
        """The jobs in flight, oldest first."""
        return list(self._live.values())

    def ended(self, since: int = 0) -> list[JobRecord]:
        """Return the jobs that have ended after the one of a number, in their order, as far as they are kept."""
        return [record for record in self._ended if record.number > since]

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job by its id, the last one to end where several have had it; None where none is known."""
        found = self._live.get(job_id)
        return found or next((record for record in reversed(self._ended) if record.id == job_id), None)

    def note(self, event: Event, commands: Iterable[Command], now: float) -> None:
        """Take an event of the dataflow and what followed from it."""
        if isinstance(event, JobSubmitted):
            self._live[event.job.id] = record = _record_of(event.job, now)
            self.on_begun(record)
            self.on_change()
        elif isinstance(event, TaskDone):
            made = whole_bytes_of(event.value)
            self._change_span(event.job_id, event.node, to_s=now, stats=event.stats, bytes=made)
        for command in commands:
            match command:
                case Dispatch(task=task):
                    self._dispatched(task.job_id, Span(task.node, task.kind, task.model, now))
                case Finish(job_id=job_id):
                    self._end(job_id, OK, "", now)
                case Fail(job_id=job_id, error=error):
                    self._end(job_id, error.code, error.message, now)

    def note_attempt(self, job_id: str, node: str, change: Change, replica: str, now: float) -> None:
        """A replica has taken a denoising call, has handed it over, or is gone."""
        record = self._live.get(job_id)
        span = None if record is None else record.spans.get(node)
        if record is None or span is None:
            return
        attempts = list(span.attempts)
        if change == "accepted":
            attempts.append(Attempt(replica, now))
        elif attempts and not attempts[-1].end:
            attempts[-1] = replace(attempts[-1], end=change, end_s=now, step=record.step)
        self._change_span(job_id, node, attempts=tuple(attempts))
        self.on_change()

    def note_step(self, job_id: str, lane: int, step: int, of_steps: int, eta_s: float, now: float) -> None:
        """An image of a job has done so many steps."""
        record = self._live.get(job_id)
        if record is not None and step >= 0:
            steps = {**record.steps, lane: max(step, record.steps.get(lane, 0))}
            self._live[job_id] = replace(record, steps=steps, of_steps=of_steps, eta_s=eta_s, told_s=now)

    def note_paused(self, job_id: str, is_paused: bool, now: float) -> None:
        """An operator has paused a job, or let it go on."""
        if (record := self._live.get(job_id)) is not None:
            pauses = record.pauses
            if is_paused and not record.is_paused:
                pauses = (*pauses, (now, None))
            elif record.is_paused and not is_paused:
                pauses = (*pauses[:-1], (pauses[-1][0], now))
            self._live[job_id] = replace(record, is_paused=is_paused, pauses=pauses)
            self.on_change()

    def _dispatched(self, job_id: str, span: Span) -> None:
        record = self._live.get(job_id)
        if record is not None:
            before = record.spans.get(span.node)
            span = span if before is None else replace(span, attempts=before.attempts)
            self._live[job_id] = replace(record, spans={**record.spans, span.node: span})

    def _change_span(self, job_id: str, node: str, **changes: object) -> None:
        record = self._live.get(job_id)
        span = None if record is None else record.spans.get(node)
        if record is not None and span is not None:
            changed: Span = replace(span, **changes)  # type: ignore[arg-type]
            self._live[job_id] = replace(record, spans={**record.spans, node: changed})

    def _end(self, job_id: str, outcome: str, message: str, now: float) -> None:
        record = self._live.pop(job_id, None)
        if record is not None:
            self._number += 1
            ended = replace(record, outcome=outcome, message=message, ended_s=now, eta_s=None, number=self._number)
            self._ended.append(ended)
            self.on_ended(ended)
            self.on_change()


def _record_of(job: Job, now: float) -> JobRecord:
    parameters = {name: job.inputs[name] for name in SHOWN if isinstance(job.inputs.get(name), int | float | str)}
    addons = [
        (field, str(use.name))
        for field in ("lora", "controlnet")
        for use in _sequence(job.inputs.get(field))
        if hasattr(use, "name")
    ]
    steps, n = parameters.get("steps"), parameters.get("n")
    return JobRecord(
        job.id,
        job.workflow,
        job.tenant,
        job.submitted_s if job.submitted_s <= now else now,
        parameters=parameters,
        addons=tuple(addons),
        is_edit="edit" in job.inputs or "image" in job.inputs,
        deadline_s=job.deadline_s,
        steps=dict.fromkeys(range(n if isinstance(n, int) else 1), 0),
        of_steps=steps if isinstance(steps, int) else 0,
    )


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
