"""Decides which processes hang, by how long each leaves a question unanswered; pure, over given times.

A process that is asked owes an answer.  It hangs when it has owed one for PATIENCE_S while another one answers, or for
ALONE_S where none does, which may as well be the machine's fault.  A look that comes late counts for LOOK_MOST_S at
most: who looks late was held up itself, and so may they have been whom it asked.
"""

from collections.abc import Collection
from dataclasses import dataclass

PATIENCE_S = 15.0  # joining Ray holds a gateway up for a second of computing, which is ten where eight want a core
ALONE_S = 30.0
LOOK_MOST_S = 1.0
AGAIN_S = 1.0  # between an answer and the next question


@dataclass(slots=True)
class _Process:
    silent_s: float | None = None  # how long it has owed an answer; None where it owes none
    due_s: float = 0.0  # when it is to be asked again
    has_answered: bool = False


class Silences:
    """What is known of some processes, by their ids."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._looked_s: float | None = None

    def look(self, pids: Collection[int], now: float) -> list[int]:
        """Take the time; return those of these that hang.  What was known of any other is forgotten."""
        passed_s = 0.0 if self._looked_s is None else min(max(0.0, now - self._looked_s), LOOK_MOST_S)
        self._looked_s = now
        self._processes = {pid: self._processes.get(pid, _Process()) for pid in pids}
        for process in self._processes.values():
            if process.silent_s is not None:
                process.silent_s += passed_s
        return [pid for pid in pids if self._hangs(pid)]

    def due(self, now: float) -> list[int]:
        """Return those that are to be asked now, unless a question to them is out."""
        return [pid for pid, known in self._processes.items() if now >= known.due_s]

    def asked(self, pid: int) -> None:
        """One has been asked."""
        known = self._processes[pid]
        known.silent_s = known.silent_s or 0.0

    def absent(self, pid: int) -> None:
        """One cannot be asked, and owes nothing."""
        self._processes[pid].silent_s = None

    def answered(self, pid: int, now: float) -> None:
        """One has answered, whatever it said."""
        self._processes[pid] = _Process(None, now + AGAIN_S, has_answered=True)

    def _hangs(self, pid: int) -> bool:
        silent_s = self._processes[pid].silent_s
        if silent_s is None or silent_s < PATIENCE_S:
            return False
        return silent_s >= ALONE_S or any(_answers(each) for other, each in self._processes.items() if other != pid)


def _answers(process: _Process) -> bool:
    return process.has_answered and (process.silent_s is None or process.silent_s < PATIENCE_S / 2)
