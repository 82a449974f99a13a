"""Who hears of a lane while it is denoised."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import SUSPECT_PAUSE_S, StreamOptions
from lego_serve.core.jobs.suspects import NoWitness, Witness

OnProgress = Callable[[LaneProgress], None]


@dataclass(frozen=True, slots=True)
class LaneListener:
    """A listener for a lane's progress and its options; ``lane`` is the lane's number in its call, which has a key."""

    on_progress: OnProgress
    stream: StreamOptions = field(default_factory=StreamOptions)
    checkpoint_every_steps: int = 0
    lane: int = 0
    call: str = ""
    witness: Witness = field(default_factory=NoWitness)

    def wait_until_known(self, starting: LaneProgress) -> None:
        """Return once it is known that the lane is about to run alone, which the listener has been sent."""
        if not self.witness.note(self.call, starting):
            time.sleep(SUSPECT_PAUSE_S)

    def came_through(self) -> None:
        """The lane has not taken the replica down."""
        self.witness.clear(self.call)
