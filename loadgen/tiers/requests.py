"""Requests that name a tier, and what a system without tiers is asked in their place."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace

from loadgen.client import Deadline, Sample
from loadgen.mixed.workload import RequestSource
from loadgen.server import Server
from loadgen.tiers.plan import TierSuite
from loadgen.traffic import Arrivals, ImageRequest


@dataclass(frozen=True, slots=True)
class TieredRequest(ImageRequest):
    """An image in a tier; without a name that of the server."""

    tier: str = ""

    def body(self, model: str) -> dict[str, object]:
        """Return the fields of the request."""
        plain = ImageRequest.body(self, model)
        return {**plain, "tier": self.tier} if self.tier else plain


class TieredWorkload:
    """The requests of another workload, every so many of which name a tier: exactly its share of any that follow."""

    def __init__(self, plain: RequestSource, suite: TierSuite) -> None:
        self._plain, self._suite = plain, suite

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase."""
        return [
            self._tiered(request, index)
            for index, request in enumerate(self._plain.requests(round_number, phase, count))
        ]

    def arrival_rng(self, round_number: int, phase: int) -> random.Random:
        """Return the generator that times a phase's arrivals."""
        return self._plain.arrival_rng(round_number, phase)

    def solo_grid(self) -> list[ImageRequest]:
        """Return one request of each kind; the objective is what the baseline takes alone."""
        return self._plain.solo_grid()

    def _tiered(self, request: ImageRequest, index: int) -> ImageRequest:
        """Name the tier where the share of the requests so far passes a whole number."""
        before, after = (math.floor(self._suite.share * count + 1e-9) for count in (index, index + 1))
        values = {each.name: getattr(request, each.name) for each in fields(ImageRequest)}
        return TieredRequest(**values, tier=self._suite.tier if after > before else "")


class PlainServer:
    """A server that is asked for ``steps`` plain ones, whatever the requests say."""

    def __init__(self, server: Server, steps: int) -> None:
        self._server, self._steps = server, steps
        self.ready_s = server.ready_s

    @property
    def dtype(self) -> str:
        """The dtype that the server computes in."""
        return self._server.dtype

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send plain requests in place of these."""
        return self._server.run([self._plain(request) for request in requests], arrivals, rng, deadline_s)

    def _plain(self, request: ImageRequest) -> ImageRequest:
        plain = replace(request, steps=self._steps)
        return replace(plain, tier="") if isinstance(plain, TieredRequest) else plain


@contextmanager
def asked_plainly(start: AbstractContextManager[Server], steps: int) -> Iterator[Server]:
    """Start a server and have it asked for plain steps."""
    with start as server:
        yield PlainServer(server, steps)
