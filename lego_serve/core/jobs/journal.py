"""What one coordinator can say of its work: the history of its jobs, and the decisions that were made about them.

A decision is what changed the course of things, by whom and why: a replica that went, a drain, a pause, requests that
were refused.  Of each kind and subject one a second is kept, so that a burst is one line with a count.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from lego_serve.core.jobs.history import History, Span
from lego_serve.core.jobs.recovery import Change

DECISIONS_KEPT = 500
TOGETHER_S = 5.0  # decisions of one kind, subject and reason that follow within this time are one, with a count


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, about what, why and by whom; ``count`` of the same in a row, the last of them at ``at_s``."""

    number: int
    at_s: float
    kind: str
    subject: str
    why: str
    by: str = "server"
    job: str = ""
    count: int = 1
    node: str = ""  # MODEL.COMPONENT, of a replica where that is known


class Journal:
    """The history of a coordinator's jobs, and its decisions."""

    def __init__(self) -> None:
        self.history = History()
        self.on_decision: Callable[[str], None] = lambda kind: None
        self.on_retry: Callable[[str, str], None] = lambda kind, model: None  # of a node whose call is made again
        self.on_redone: Callable[[str, int], None] = lambda model, steps: None  # steps that are computed again
        self.on_change: Callable[[], None] = lambda: None  # of a job or a decision; steps are no change
        self.history.on_change = lambda: self.on_change()
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self._number = 0

    def decisions(self, since: int = 0) -> Sequence[Decision]:
        """Return the decisions made or repeated after the one of a number, oldest first."""
        return [each for each in self._decisions if each.number > since]

    def decide(
        self, kind: str, subject: str, why: str, now: float, *, by: str = "server", job: str = "", node: str = ""
    ) -> None:
        """Note a decision; one that repeats another soon counts up that one."""
        self.on_decision(kind)
        self._decide(Decision(self._number + 1, now, kind, subject, why, by, job, node=node))
        self.on_change()

    def _decide(self, new: Decision) -> None:
        self._number = new.number
        for index in range(len(self._decisions) - 1, -1, -1):
            last = self._decisions[index]
            if new.at_s - last.at_s > TOGETHER_S:
                break
            if (last.kind, last.subject, last.why, last.by) == (new.kind, new.subject, new.why, new.by):
                del self._decisions[index]
                new = replace(last, number=new.number, at_s=new.at_s, count=last.count + 1, job=new.job or last.job)
                break
        self._decisions.append(new)

    def note_attempt(self, job_id: str, node: str, change: Change, replica: str, now: float) -> None:
        """A replica has taken a denoising call, has handed it over, or is gone."""
        if change == "lost" and replica:
            record = self.history.get(job_id)
            span = None if record is None else record.spans.get(node)
            self._note_lost(replica, now, "" if span is None else f"{span.model}.backbone")
        self.history.note_attempt(job_id, node, change, replica, now)

    def note_departed(self, replicas: Collection[str], now: float) -> None:
        """Replicas are no longer to be used, as the cluster says: what broke off before has mostly told it already."""
        for replica in sorted(replicas):
            self._note_lost(replica, now, "")

    def _note_lost(self, replica: str, now: float, node: str) -> None:
        """Note that a replica has gone, once, with the images that it had in hand and that go on elsewhere."""
        if any(each.kind == "lost" and each.subject == replica for each in self._decisions):
            return
        held = [record for record in self.history.live if _has(record.spans.values(), replica)]
        images = sum(len(record.steps) for record in held)
        goes_on = f"its {images} images go on elsewhere" if images != 1 else "its image goes on elsewhere"
        why = f"it stopped answering, or was stopped; {goes_on if images else 'it had nothing in hand'}"
        self.decide("lost", replica, why, now, job=held[0].id if held else "", node=node)


def _has(spans: Collection[Span], replica: str) -> bool:
    """Whether a replica had a call until now, or until a moment ago."""
    attempts = [attempt for span in spans for attempt in span.attempts]
    return bool(attempts) and attempts[-1].replica == replica
