"""A server under test at a URL, and the event loop that talks to it."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from loadgen.client import TIMEOUT_S, open_http
from loadgen.progress import OnLine
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Posted
from loadgen.runs.session import NotAnsweredError, Objectives, Session
from loadgen.traffic import Arrivals

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server listens, and how it is asked."""

    url: str
    api_key: str | None = None
    timeout_s: float = TIMEOUT_S

    def open(self) -> httpx2.AsyncClient:
        """Return a client of the server.  Raises ValueError for what is no URL."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no URL such as http://127.0.0.1:8000")
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else None
        return open_http(self.url, self.timeout_s, headers)


class Bench:
    """A server that answers, ready to be measured; ``models`` are those it lists, none where it lists none."""

    def __init__(self, runner: asyncio.Runner, session: Session, models: Sequence[str]) -> None:
        self._runner, self._session = runner, session
        self.models = models

    def warm_up(self, requests: Sequence[Posted]) -> None:
        """Send requests one after the other, untimed.  Raises NotAnsweredError where none works."""
        self._runner.run(self._session.warm_up(requests))

    def run(self, requests: Sequence[Posted], arrivals: Arrivals, seed: str) -> list[Outcome]:
        """Time those alone that need it, then send the requests as the arrivals say."""
        return self._runner.run(self._session.run(requests, arrivals, random.Random(seed)))

    @property
    def solo_s(self) -> dict[str, float]:
        """The seconds alone that were measured, by the kind of request in words."""
        return {" ".join(map(str, key)): round(seconds, 5) for key, seconds in self._session.solo_s.items()}


@contextmanager
def connected(
    http: httpx2.AsyncClient, objectives: Objectives, on_line: OnLine, loop_factory: LoopFactory | None = None
) -> Iterator[Bench]:
    """Yield the bench of a server that answers, and close its connections.  Raises NotAnsweredError."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            models = runner.run(_models(http))
            yield Bench(runner, Session(http, objectives, on_line), models)
        finally:
            runner.run(http.aclose())


async def _models(http: httpx2.AsyncClient) -> list[str]:
    """Return the names of the models that the server lists.  Raises NotAnsweredError where nobody answers."""
    try:
        response = await http.get("/v1/models")
    except httpx2.HTTPError as error:
        raise NotAnsweredError(f"nothing answers at {http.base_url}: {type(error).__name__}: {error}") from None
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []
