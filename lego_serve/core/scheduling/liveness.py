"""Decides which replicas of a deployment hang, and which calls are to be made again elsewhere; pure, over given times.

While a call is silent its deployment's replicas are asked what they have in hand.  A replica hangs when it leaves a
question unanswered for PATIENCE_S, or when its step takes LATE_FACTOR times what was predicted and at least PATIENCE_S.
Its calls are given up if another replica can take them: where it is the only one they wait for it, or for its end.  A
call that no replica knows, though all that answer were asked, is given up as well: it was lost on its way.

A call is given twice the patience each time that it was given up, so that one that is slow wherever it runs ends.
"""

from collections.abc import Collection
from dataclasses import dataclass

from lego_serve.core.nodes.requests import RunningStep

QUIET_S = 1.0  # how long a call may say nothing before its replicas are asked
PATIENCE_S = 3.0
LATE_FACTOR = 10.0
MAX_DOUBLINGS = 5
WEDGED_S = 30.0  # a step that is late by so much, and by twice LATE_FACTOR, ends the process


def patience_s(hangs: int, predicted_s: float = 0.0) -> float:
    """Return how long a call that was given up so often waits for an answer, or for a step of this prediction."""
    return float(max(PATIENCE_S, LATE_FACTOR * predicted_s) * 2 ** min(hangs, MAX_DOUBLINGS))


def is_wedged(step: RunningStep | None) -> bool:
    """Whether a step is so late that the process of its replica is of no use any more."""
    return step is not None and step.elapsed_s >= max(WEDGED_S, 2 * LATE_FACTOR * step.predicted_s)


@dataclass(slots=True)
class _Call:
    hangs: int
    began_s: float
    heard_s: float
    replica: str = ""  # empty until it is known
    missing_s: float | None = None  # since when no replica that answers has it


@dataclass(slots=True)
class _Replica:
    unanswered_s: float | None = None  # since when it owes an answer
    step: RunningStep | None = None  # as it was when it answered last


class ReplicaLiveness:
    """The calls to one deployment that are out, and what its replicas have answered."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._replicas: dict[str, _Replica] = {}
        self._asked_s = 0.0
        self._found: set[str] = set()  # the calls that replicas have told of since they were asked

    @property
    def is_idle(self) -> bool:
        """Whether no call is out."""
        return not self._calls

    def begin(self, key: str, hangs: int, now: float) -> None:
        """A call goes out that was given up ``hangs`` times before."""
        self._calls[key] = _Call(hangs, now, now)

    def end(self, key: str) -> None:
        """A call has ended, or nobody waits for it any more."""
        self._calls.pop(key, None)

    def heard(self, key: str, now: float, replica: str = "") -> None:
        """A call's replica has said something; ``replica`` where it said its name."""
        if (call := self._calls.get(key)) is None:
            return
        call.heard_s, call.missing_s = now, None
        call.replica = replica or call.replica
        if call.replica in self._replicas:
            self._replicas[call.replica].unanswered_s = None

    def is_due(self, now: float) -> bool:
        """Whether to ask the replicas: a call is silent, or a replica hangs and may have come back."""
        return any(now - call.heard_s >= QUIET_S for call in self._calls.values()) or bool(self.hung(now))

    def asked(self, replicas: Collection[str], now: float) -> None:
        """These replicas, which are all there are, are asked what they have in hand."""
        self._replicas = {name: self._replicas.get(name, _Replica()) for name in replicas}
        for replica in self._replicas.values():
            if replica.unanswered_s is None:
                replica.unanswered_s = now
        self._asked_s, self._found = now, set()

    def answered(self, replica: str, calls: Collection[str], step: RunningStep | None, now: float) -> None:
        """A replica has these calls in hand and is in this step."""
        state = self._replicas.setdefault(replica, _Replica())
        state.unanswered_s, state.step = None, step
        self._found.update(calls)
        for key in calls:
            if (call := self._calls.get(key)) is not None:
                call.replica, call.missing_s = replica, None

    def settle(self, now: float) -> None:
        """What was to be answered has been: calls that were out when it was asked and that nobody has are missing."""
        if not any(replica.unanswered_s is None for replica in self._replicas.values()):
            return
        for key, call in self._calls.items():
            is_elsewhere = call.replica in self._replicas and self._replicas[call.replica].unanswered_s is not None
            if key in self._found or is_elsewhere or call.began_s >= self._asked_s or call.heard_s >= self._asked_s:
                call.missing_s = None
            elif call.missing_s is None:
                call.missing_s = self._asked_s

    def hung(self, now: float, hangs: int = 0) -> frozenset[str]:
        """Return the replicas that hang, for a call that was given up so often."""
        return frozenset(name for name, replica in self._replicas.items() if _hangs(replica, now, hangs))

    def lost(self, now: float) -> list[str]:
        """Return the calls that are to be given up and made again."""
        can_go_on = len(self.hung(now)) < len(self._replicas)
        return [key for key, call in self._calls.items() if self._is_lost(call, now, can_go_on)]

    def _is_lost(self, call: _Call, now: float, can_go_on: bool) -> bool:
        if call.missing_s is not None and now - call.missing_s >= patience_s(call.hangs):
            return True
        return can_go_on and call.replica in self._replicas and _hangs(self._replicas[call.replica], now, call.hangs)


def _hangs(replica: _Replica, now: float, hangs: int) -> bool:
    if replica.unanswered_s is not None and now - replica.unanswered_s >= patience_s(hangs):
        return True
    step = replica.step
    return step is not None and step.elapsed_s >= patience_s(hangs, step.predicted_s)
