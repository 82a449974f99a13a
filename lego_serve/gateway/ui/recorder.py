"""Takes note of what ends in this gateway: series, errors, and how long each node of a workflow takes."""

import os
import re
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lego_serve.core.jobs.history import OK, JobRecord
from lego_serve.core.jobs.series import Series, SoloTimes
from lego_serve.gateway.context import Context

ERRORS_KEPT = 200
TIMES_KEPT = 200
CANCELLED, EXPIRED = "job_cancelled", "deadline_exceeded"
NodeTimes = tuple[float, float, float, int]  # seconds waiting, running and on the way; bytes that it made
SERVERS_OWN = ("job_warm-", "job_compared-")  # the server's own jobs, which nobody waits for


@dataclass(slots=True)
class _Error:
    code: str
    node: str
    count: int = 0
    last: float = 0.0
    said: str = ""
    job: str = ""


class Recorder:
    """What this gateway has seen; ``clock`` is the wall clock."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.time) -> None:
        self.context, self.clock = context, clock
        self.id = f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())}-{os.getpid()}"
        self.pid = os.getpid()
        self.started = clock()
        self.series, self.solo = Series(), SoloTimes()
        self.totals: dict[str, float] = {}
        self.found: dict[str, list[int]] = {}  # by kind and model: how often it was at hand, and how often not
        self._errors: OrderedDict[tuple[str, str], _Error] = OrderedDict()
        self._times: dict[str, dict[str, deque[NodeTimes]]] = {}
        self._expected_at: dict[str, float] = {}  # of jobs in flight, on the clock of the runner
        context.runner.journal.history.on_begun = self.note_begun
        context.runner.journal.history.on_ended = self.note_ended
        context.metrics.on_refusal = self.note_refused

    def wall(self, at_s: float) -> float:
        """Return a time of the runner's clock on the wall clock."""
        return self.clock() - (self.context.runner.now() - at_s)

    def target(self, record: JobRecord) -> tuple[float | None, str]:
        """Return within which time a job should end, and whose word that is.

        Its caller's ``deadline``, its workflow's ``slo``, or what was ``learned`` of such work.
        """
        if record.deadline_s is not None:
            return record.deadline_s - record.began_s, "deadline"
        slo_s = self.slo_s(record.workflow)
        if slo_s is not None:
            return slo_s, "slo"
        learned_s = self.solo.target_s(record.workflow, work_of(record))
        return learned_s, "" if learned_s is None else "learned"

    def slo_s(self, workflow: str) -> float | None:
        """Return the seconds in which requests of a workflow should be answered; the configuration's comes first."""
        known = self.context.runner.workflows.get(workflow)
        return self.context.settings.slo_s.get(workflow, None if known is None else known.slo_s)

    def eta_s(self, record: JobRecord) -> float | None:
        """Return in how many seconds a job is expected to end: as it told with its last step, or as it was accepted.

        None where that is over, and where nothing is known yet.
        """
        expected_at = None
        if record.is_waiting:
            expected_at = self._expected_at.get(record.id)
        elif record.eta_s is not None and record.step > 0:
            expected_at = record.told_s + record.eta_s
        left_s = -1.0 if expected_at is None else expected_at - self.context.runner.now()
        return left_s if left_s > 0.0 else None

    def note_begun(self, record: JobRecord) -> None:
        """Take note of a job that was accepted."""
        if not record.id.startswith(SERVERS_OWN):
            self._count({"accepted": 1})
            if (expected_at := self.context.admission.expected_at) is not None:
                self._expected_at[record.id] = expected_at

    def note_waiting(self, waiting: int) -> None:
        """Take note of how many jobs wait, which is looked at now and then."""
        self._count({"waiting": waiting, "looks": 1})

    def note_ended(self, record: JobRecord) -> None:
        """Take note of a job that has ended."""
        self._expected_at.pop(record.id, None)
        if record.id.startswith(SERVERS_OWN) or record.ended_s is None:
            return
        took_s, images = record.ended_s - record.began_s, len(record.steps)
        if record.outcome == OK:
            target_s, _ = self.target(record)
            is_late = target_s is not None and took_s > target_s
            self.solo.learn(record.workflow, work_of(record), took_s)
            computed, full = _rows(record)
            counts = {"ok": 1, "late": int(is_late), "images": images, "late_images": images * is_late}
            self._count(counts | {"computed": computed, "full": full}, took_s)
            self._note_times(record)
        elif record.outcome == CANCELLED:
            self._count({"cancelled": 1})
        else:
            self._count({"failed": 1, "expired": int(record.outcome == EXPIRED)})
            failed = [name for name, span in record.spans.items() if span.to_s is None]
            self._note_error(record.outcome, failed[0] if failed else "", record.message, record.id)

    def note_refused(self, reason: str) -> None:
        """Take note of a request that never became a job."""
        self._count({"refused": 1})
        self._note_error(reason, "", "", "")
        if reason in ("over_capacity", "tenant_share"):
            said = "all places are taken" if reason == "over_capacity" else "the tenant has its part of all places"
            journal = self.context.runner.journal
            journal.decide("refuse", "requests", said, self.context.runner.now())

    def errors(self) -> list[dict[str, Any]]:
        """Return the errors by code and node, the last first."""
        rows = [
            {"code": e.code, "node": e.node, "count": e.count, "last": e.last, "said": e.said, "job": e.job}
            for e in self._errors.values()
        ]
        return sorted(rows, key=lambda row: -float(str(row["last"])))

    def times(self, workflow: str) -> dict[str, list[NodeTimes]]:
        """Return what the nodes of a workflow cost lately, each time they ran."""
        return {node: list(times) for node, times in self._times.get(workflow, {}).items()}

    def _count(self, counts: Mapping[str, float], seconds: float | None = None) -> None:
        self.series.add(self.clock(), counts, () if seconds is None else (seconds,))
        for name, count in counts.items():
            self.totals[name] = self.totals.get(name, 0) + count

    def _note_times(self, record: JobRecord) -> None:
        nodes = self._times.setdefault(record.workflow, {})
        for name, span in record.spans.items():
            if span.stats is not None:
                if span.kind == "text_encode":
                    self._note_found(f"prompts {span.model}", span.stats.cache_hit)
                if span.stats.reuse is not None and span.stats.reuse.masked_steps:
                    self._note_found(f"templates {span.model}", span.stats.reuse.primed == 0)
                for kind, uses in (("adapters", span.stats.adapters), ("controlnets", span.stats.controlnets)):
                    for use in uses:
                        self._note_found(f"{kind} {span.model}", use.hit)
                times = nodes.setdefault(name, deque(maxlen=TIMES_KEPT))
                times.append((span.stats.queue_s, span.stats.run_s, span.sent_s, span.bytes))

    def _note_found(self, what: str, is_found: bool) -> None:
        self.found.setdefault(what, [0, 0])[0 if is_found else 1] += 1

    def _note_error(self, code: str, node: str, said: str, job: str) -> None:
        error = self._errors.setdefault((code, node), _Error(code, node))
        error.count, error.last = error.count + 1, round(self.clock(), 3)
        error.said, error.job = said or error.said, job or error.job
        while len(self._errors) > ERRORS_KEPT:
            self._errors.popitem(last=False)


def work_of(record: JobRecord) -> float:
    """Return the pixels of a job's images times their steps."""
    numbers = [record.parameters.get(name, 1) for name in ("width", "height", "steps", "n")]
    work = 1.0
    for number in numbers:
        work *= number if isinstance(number, int | float) else 1
    return work


def _rows(record: JobRecord) -> tuple[float, float]:
    """Return the work that a job's denoising computed, and what whole steps would have been, in steps of an image."""
    computed = full = 0.0
    for span in record.spans.values():
        if span.kind != "denoise" or span.stats is None:
            continue
        steps = float(len(span.stats.step_s) or record.of_steps)
        reuse = span.stats.reuse
        full += steps
        share = 1.0 if reuse is None or not reuse.rows else reuse.active_rows / reuse.rows
        masked = 0 if reuse is None else reuse.masked_steps
        computed += steps - masked + masked * share
    return computed, full
