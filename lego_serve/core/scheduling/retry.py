"""How often and after which pauses a call is made again when its replica is lost, and how many are in all."""

from collections.abc import Callable, Iterator
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

    def drawn(self, chance: Callable[[], float]) -> Iterator[float]:
        """Yield as many pauses, each between the shortest of them and the longest, with decorrelated jitter.

        A pause is up to three times the one before, so that calls that are lost together are not made again together;
        ``chance`` draws from 0 to 1 (Brooker, "Exponential Backoff and Jitter", AWS, 2015).
        """
        least_s, most_s = min(self.pauses_s), max(self.pauses_s)
        pause_s = least_s
        for _ in range(self.attempts - 1):
            pause_s = min(most_s, least_s + chance() * (3 * pause_s - least_s))
            yield pause_s

    @property
    def longest_s(self) -> float:
        """The sum of all pauses."""
        return sum(self.pauses())


class RetryBudget:
    """How many calls one process may make again: a bucket of tokens, of which each takes one.

    A request that begins puts RETRIES_A_REQUEST in and a second RETRIES_A_SECOND, as far as RETRIES_AT_ONCE; it is full
    at first.  So in any time no more are made again than RETRIES_AT_ONCE, and so many a second and a request.  Who
    finds none waits (the budgets of Finagle and of gRPC, A6, where such a call fails instead).
    """

    def __init__(self, now: float) -> None:
        self._tokens, self._seen_s = RETRIES_AT_ONCE, now

    def request_begins(self, now: float) -> None:
        """A request has come that was not there before."""
        self._fill(now, RETRIES_A_REQUEST)

    def take(self, now: float) -> float:
        """Take a token and return 0; where there is none, return the seconds after which one is there at the latest."""
        self._fill(now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / RETRIES_A_SECOND

    def _fill(self, now: float, more: float = 0.0) -> None:
        passed_s = max(0.0, now - self._seen_s)
        self._seen_s = max(self._seen_s, now)
        self._tokens = min(RETRIES_AT_ONCE, self._tokens + passed_s * RETRIES_A_SECOND + more)


RETRIES_A_REQUEST = 0.1
RETRIES_A_SECOND = 3.0
RETRIES_AT_ONCE = 30.0  # what ten seconds without requests fill up: the lanes of a replica go on elsewhere at once

NODE_CALL = RetryPolicy(20, (0.1, 2.0))  # a text encoder, VAE or LoRA node, as a coordinator calls it
ADAPTER_FETCH = RetryPolicy(
    40, (0.2, 1.0)
)  # an adapter, as a replica fetches it: its lanes have their place in the order
CALL_COMMAND = RetryPolicy(50, (0.1,))  # pausing a call that is just getting to a replica
BROADCAST = RetryPolicy(14, (0.2, 0.5, 1.0, 2.0))  # some 20 s: Ray takes its time to find out who has died
DENOISE_DEATHS = 100  # of one call, before a job is given up as the server's failure
DENOISE_MOVES = 1000  # likewise; a call may be turned away many times while the only replica is being replaced
# How often a denoising call is made again is Recovery's to decide; here is how soon.
DENOISE_LOST = RetryPolicy(DENOISE_DEATHS, (0.1, 1.0))
DENOISE_MOVED = RetryPolicy(DENOISE_MOVES, (0.05, 1.0))  # the router hears of a drained replica a little later than we
CONTROLNET_PAUSE_S = 0.05  # a ControlNet's step is asked for again until the ControlNet counts as unavailable
CONTROLNET_GRACE_S = 0.3  # for another replica to take a lost call, before the ControlNet counts as unavailable
CONTROLNET_PATIENCE_S = 2.0  # for an answer if no call was lost; more if answers take long
CONTROLNET_ROUNDS = 5  # how often a step is sent again for content that the replica lacks
DEATHS_ALONE = 2  # replicas a call takes down while it runs alone, in one step, before it is refused
JOB_RERUNS = 20  # of the nodes of one job, before lost outputs are given up as the server's failure
