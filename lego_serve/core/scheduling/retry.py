"""How often and after which pauses a call is made again when its replica is lost: one value for each kind of call."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most ``attempts`` calls in all, with these pauses between them; the last pause is repeated.

    Raises ValueError without an attempt, without a pause, or for a negative pause.
    """

    attempts: int
    pauses_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.attempts < 1 or not self.pauses_s or min(self.pauses_s) < 0:
            raise ValueError(f"{self.attempts} attempts with pauses of {self.pauses_s} s are no policy")

    def pauses(self) -> Iterator[float]:
        """Yield the pause after each failed attempt but the last."""
        return islice(chain(self.pauses_s, repeat(self.pauses_s[-1])), self.attempts - 1)

    @property
    def longest_s(self) -> float:
        """The sum of all pauses."""
        return sum(self.pauses())


NODE_CALL = RetryPolicy(20, (0.5,))  # a text encoder, VAE or LoRA node, as a coordinator calls it
ADAPTER_FETCH = RetryPolicy(40, (0.5,))  # an adapter, as a replica fetches it: its lanes have their place in the order
CALL_COMMAND = RetryPolicy(50, (0.1,))  # pausing a call that is just getting to a replica
BROADCAST = RetryPolicy(14, (0.2, 0.5, 1.0, 2.0))  # some 20 s: Ray takes its time to find out who has died
# How often a denoising call is made again is Recovery's to decide; here is how soon.
DENOISE_LOST_PAUSE_S = 0.2
DENOISE_MOVED_PAUSE_S = 0.05  # the router hears of a drained replica a little later than we do
CONTROLNET_PAUSE_S = 0.05  # a ControlNet's step is asked for again until the ControlNet counts as unavailable
CONTROLNET_GRACE_S = 0.3  # for another replica to take a lost call, before the ControlNet counts as unavailable
CONTROLNET_PATIENCE_S = 2.0  # for an answer if no call was lost; more if answers take long
CONTROLNET_ROUNDS = 5  # how often a step is sent again for content that the replica lacks
DENOISE_DEATHS_ALONE = 3  # replicas a lane takes down while it runs alone, in one step, before it is refused
DENOISE_DEATHS = 100  # in all, before a job is given up as the server's failure
DENOISE_MOVES = 1000  # likewise; a call may be turned away many times while the only replica is being replaced
JOB_RERUNS = 20  # of the nodes of one job, before lost outputs are given up as the server's failure
