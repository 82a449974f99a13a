"""What is told of a lane while it is denoised: previews, progress and checkpoints, and when.

At most MESSAGES_A_SECOND previews and reports a lane; none that nobody asked for.  What falls due
too early is sent with the next message that may go out, so that nothing is lost.  Checkpoints are
not held back: a lane that loses its replica must not lose more steps than it was promised.  That a
lane has begun is told after its first step here, whoever listens: until then its job may be taken
to another replica as one that has not, and checkpoints come only every few steps.
"""

from dataclasses import dataclass

MESSAGES_A_SECOND = 4
PREPARING = -1  # in place of a step: a lane that is being taken and made ready for its first one
SUSPECT_PAUSE_S = 0.02  # between the message that a suspect runs and its step, so that the message gets out


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the client wants to hear: how many previews, and whether every step."""

    previews: int = 0
    steps: bool = False


@dataclass(frozen=True, slots=True)
class ProgressMessage:
    """What the next message carries."""

    preview: bool
    checkpoint: bool
    report: bool  # whether the client may hear of it, or it is for the coordinator alone


BEGUN = ProgressMessage(preview=False, checkpoint=False, report=False)  # no more than that


@dataclass(frozen=True, slots=True)
class LaneCheckpoint:
    """A lane's whole state after so many steps, as the bytes that a backbone writes and reads."""

    step: int
    state: bytes


class ProgressThrottle:
    """Decides for one lane, after every step, whether a message goes out."""

    def __init__(self, stream: StreamOptions, steps: int, checkpoint_every_steps: int, first_step: int = 0) -> None:
        self._stream, self._steps, self._every = stream, steps, checkpoint_every_steps
        self._previews_sent = 0
        while self._previews_sent < stream.previews and self._preview_step <= first_step:
            self._previews_sent += 1  # a lane that goes on from a checkpoint has sent these
        self._checkpoint_step = first_step
        self._sent_s: float | None = None
        self._has_begun = False

    def due(self, step: int, now: float, *, drain: bool = False) -> ProgressMessage | None:
        """What to send after ``step`` steps are done; None for nothing.  A draining lane is sent at once, whole.

        After the first step there is always a message, if need be a bare one.  The end of a lane is no progress: its
        result says it.
        """
        is_first, self._has_begun = not self._has_begun, True
        if step >= self._steps:
            return None
        preview = self._previews_sent < self._stream.previews and step >= self._preview_step
        checkpoint = drain or (self._every > 0 and step - self._checkpoint_step >= self._every)
        report = preview or self._stream.steps
        if self._sent_s is not None and now - self._sent_s < 1 / MESSAGES_A_SECOND:
            report = preview = False
        if not (report or checkpoint or is_first):
            return None
        if report:
            self._sent_s = now
        if preview:
            self._previews_sent += 1
        if checkpoint:
            self._checkpoint_step = step
        return ProgressMessage(preview, checkpoint, report)

    @property
    def _preview_step(self) -> int:
        """Previews lie evenly between the first step and the end."""
        return max(1, (self._previews_sent + 1) * self._steps // (self._stream.previews + 1))
