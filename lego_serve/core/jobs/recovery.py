"""Decides how a call continues when its replica goes: elsewhere, alone for a while, or not at all.

When a replica dies all calls it had are suspects, the lanes of denoising ones each for itself.  A suspect lane goes on
from its last checkpoint and runs alone past the step at which the replica died; if it gets there it was innocent.  A
call without steps, such as a decode, runs alone as a whole, which is the step PREPARING.  A replica that hangs for the
first time of a call makes no suspects: a machine that stops is likelier than a request that stops it.

A call is refused that has taken a replica down DEATHS_ALONE times after it had said that it ran alone, each time in the
same step; a lane's being made ready for its first step counts as one of its own.  So the first death of all does not
count, nor does a replica that was gone, or going, before it said so.  A kill from outside hits a random moment of a
random call: it adds up to a refusal only where two of them hit the same step of one call, which takes some tens of
milliseconds, one soon after the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.core.scheduling.retry import DEATHS_ALONE, DENOISE_DEATHS, DENOISE_MOVES

Change = Literal["accepted", "moved", "lost"]  # a replica has taken a call, has handed it over, or is gone
MARGIN_STEPS = 3  # steps a replica may have run that it had not told of when it died


@dataclass(frozen=True, slots=True)
class Retry:
    """Make the call again: lanes go on from their checkpoints, the first ``suspect_steps`` of them alone."""

    checkpoints: Mapping[int, bytes]
    suspect_steps: int
    avoid: frozenset[str]
    hangs: int = 0


@dataclass(frozen=True, slots=True)
class PoisonRequest:
    """This call takes replicas down by itself, in this step or while it is made ready (PREPARING)."""

    step: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Too many replicas died around it."""

    attempts: int


RecoveryAction: TypeAlias = Retry | PoisonRequest | GiveUp


@dataclass(slots=True)
class _Lane:
    step: int = 0  # the furthest step it is known to have done
    checkpoint_step: int = 0
    starting: int | None = None  # the step it was about to run, alone, or PREPARING
    deaths: dict[int, int] = field(default_factory=dict)  # by the step in which it was alone


class Recovery:
    """One task, over all its attempts, also where it runs again since an input or its output was lost."""

    def __init__(self, checkpoint_every_steps: int, kept: Mapping[int, LaneCheckpoint] = {}) -> None:
        """``kept``: where lanes begin, by number, since another process had run them so far."""
        self._every = checkpoint_every_steps
        self._lanes = {lane: _Lane(step=each.step, checkpoint_step=each.step) for lane, each in kept.items()}
        self._checkpoints = {lane: each.state for lane, each in kept.items()}
        self._deaths = self._moves = self._hangs = 0
        self._replica: str | None = None
        self._suspicion = 0  # the suspect steps of the attempt that runs, or of the next
        self._avoid: frozenset[str] = frozenset()  # what these should not run on
        self.on_change: Callable[[Change, str], None] = lambda change, replica: None
        self.steps_redone = 0  # that are known of: a replica that died may have run some it had not told of

    @property
    def replica(self) -> str | None:
        """The replica that has the call now."""
        return self._replica

    @property
    def attempts(self) -> int:
        """How often it was begun again."""
        return self._deaths + self._moves

    def note_accepted(self, replica: str) -> None:
        """A replica has taken the call."""
        self._replica = replica
        self.on_change("accepted", replica)

    def note_progress(self, lane: int, step: int, checkpoint: bytes | None, *, is_starting: bool) -> None:
        """A lane has done so many steps, or is about to run the next alone (or to be made ready: PREPARING).

        Without ``is_starting`` it is in company again.
        """
        state = self._lanes.setdefault(lane, _Lane())
        state.step = max(state.step, step)
        state.starting = step if is_starting else None
        if checkpoint is not None:
            self._checkpoints[lane] = checkpoint
            state.checkpoint_step = step

    def begin(self) -> Retry:
        """Return where the task begins: at its checkpoints, where an earlier run of it has left some.

        Nodes are deterministic: what an input or an output is made anew of has the same bits, and steps stay valid.
        """
        self._fall_back()
        return Retry(dict(self._checkpoints), self._suspicion, self._avoid, self._hangs)

    def note_result(self) -> None:
        """The task has its result: no lane of it is a suspect any more."""
        self._suspicion = 0

    def after_move(self) -> RecoveryAction:
        """The replica is being drained or has left in good order: go on elsewhere, suspected of nothing."""
        self._moves += 1
        self.on_change("moved", self._replica or "")
        return self._again(0)

    def after_loss(self) -> RecoveryAction:
        """The replica died."""
        self._deaths += 1
        self.on_change("lost", self._replica or "")
        for state in self._lanes.values():
            if state.starting is not None:
                deaths = state.deaths.get(state.starting, 0) + 1
                state.deaths[state.starting] = deaths
                if deaths >= DEATHS_ALONE:
                    return PoisonRequest(state.starting)
        return self._again(self._suspect_steps)

    def after_hang(self) -> RecoveryAction:
        """The replica does not answer any more: the first time nobody is suspected, later it is as if it had died."""
        self._hangs += 1
        if self._hangs > 1:
            return self.after_loss()
        self._moves += 1
        self.on_change("lost", self._replica or "")
        return self._again(0)

    @property
    def _suspect_steps(self) -> int:
        """From its checkpoint past the furthest step any lane can have been in."""
        ahead = max((s.step - s.checkpoint_step for s in self._lanes.values()), default=0)
        return ahead + self._every + MARGIN_STEPS

    def _again(self, suspect_steps: int) -> RecoveryAction:
        if self._deaths >= DENOISE_DEATHS or self._moves >= DENOISE_MOVES:
            return GiveUp(self.attempts)
        self._fall_back()
        self._suspicion = suspect_steps
        self._avoid = frozenset() if self._replica is None else frozenset({self._replica})
        self._replica = None
        return Retry(dict(self._checkpoints), suspect_steps, self._avoid, self._hangs)

    def _fall_back(self) -> None:
        """Count the steps past the checkpoints as those to be made again."""
        for state in self._lanes.values():
            self.steps_redone += state.step - state.checkpoint_step
            state.step, state.starting = state.checkpoint_step, None
