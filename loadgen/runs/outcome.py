"""What became of each request, and the file that holds it: one JSON object a line."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.client import Sample
from loadgen.runs.posting import Posted
from loadgen.traces.errors import TraceError
from loadgen.traces.rows import json_rows

FILE = "requests.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: its times in seconds from the start of the run, its answer, and its objective."""

    due_s: float
    sent_s: float
    done_s: float
    status: int
    error: str | None
    workflow: str
    kind: str
    size: str
    slo_s: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether an image came back."""
        return self.error is None

    @property
    def latency_s(self) -> float:
        """Seconds from when it was due, however late it left."""
        return self.done_s - self.due_s

    @property
    def late_s(self) -> float:
        """How much later than due it was sent: the client's own fault."""
        return self.sent_s - self.due_s

    @property
    def is_met(self) -> bool:
        """Whether it met its objective; a request without an objective only has to be answered."""
        return self.is_ok and (self.slo_s is None or self.latency_s <= self.slo_s)


def outcomes_of(requests: Sequence[Posted], samples: Sequence[Sample], slo_s: Sequence[float | None]) -> list[Outcome]:
    """Return the outcome of every request."""
    return [
        Outcome(
            due_s=round(sample.due_s, 6),
            sent_s=round(sample.sent_s, 6),
            done_s=round(sample.done_s, 6),
            status=sample.reply.status,
            error=None if sample.is_ok else sample.reply.error or "no image",
            workflow=request.record.workflow,
            kind=request.record.kind,
            size=request.size,
            slo_s=objective_s,
        )
        for request, sample, objective_s in zip(requests, samples, slo_s, strict=True)
    ]


def write_outcomes(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes into a result folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for outcome in outcomes:
            file.write(json.dumps(dataclasses.asdict(outcome), separators=(",", ":")) + "\n")


def read_outcomes(folder: Path) -> list[Outcome]:
    """Read the outcomes of a result folder, or of its file.  Raises TraceError."""
    path = folder / FILE if folder.is_dir() else folder
    found = []
    for row in json_rows(path):
        error = None if row.is_empty("error") else row.text("error")
        found.append(
            Outcome(
                due_s=row.number("due_s"),
                sent_s=row.number("sent_s"),
                done_s=row.number("done_s"),
                status=row.integer("status"),
                error=error,
                workflow="" if row.is_empty("workflow") else row.text("workflow"),
                kind="" if row.is_empty("kind") else row.text("kind"),
                size="" if row.is_empty("size") else row.text("size"),
                slo_s=None if row.is_empty("slo_s") else row.number("slo_s"),
            )
        )
    if not found:
        raise TraceError(path, "has no requests")
    return found
