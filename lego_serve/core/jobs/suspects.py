"""Who remembers which suspect a replica was running, when the replica can no longer say so.

A replica says of a suspect that it is about to run in the stream of its call, and of one that has come through as well.
A word of a stream is lost where the replica dies before it has left; so a witness is told too, and answers.
"""

from typing import Protocol

from lego_serve.core.jobs.messages import LaneProgress


class Witness(Protocol):
    """Remembers of each call, by its key, the lane that is about to run; may be asked from any thread."""

    def note(self, call: str, progress: LaneProgress) -> bool:
        """A lane of a call is about to run alone; return whether this is sure to be remembered."""
        ...

    def clear(self, call: str) -> None:
        """It did not take the replica down."""
        ...


class NoWitness:
    """Remembers nothing: there is the stream alone."""

    def note(self, call: str, progress: LaneProgress) -> bool:
        """Return that it is not remembered."""
        return False

    def clear(self, call: str) -> None:
        """Nothing is remembered."""
