"""Clients that ask a server for images over and over, and what became of each request."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2

from tests.support.e2e.images import PROMPT

BODY = {"prompt": PROMPT, "size": "96x96", "num_inference_steps": 4}
BROKEN = 0  # in place of a status: the connection broke


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one request: its status, the seconds it took, and its headers."""

    status: int
    seconds: float
    headers: Mapping[str, str]


async def drive(
    url: str, clients: int, seconds: float, body: Mapping[str, object] = BODY, headers: Mapping[str, str] = {}
) -> list[Outcome]:
    """Have so many clients ask one request after the other for so long; return all outcomes."""
    until = asyncio.get_running_loop().time() + seconds
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(timeout=120, limits=limits, headers=dict(headers)) as http:
        outcomes = await asyncio.gather(*(_client(http, url, number, until, body) for number in range(clients)))
    return [outcome for each in outcomes for outcome in each]


async def _client(
    http: httpx2.AsyncClient, url: str, number: int, until: float, body: Mapping[str, object]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        started = loop.time()
        wanted = {"seed": number * 100_000 + len(outcomes)} | body
        try:
            answer = await http.post(f"{url}/v1/images/generations", json=wanted)
        except httpx2.TransportError:
            outcomes.append(Outcome(BROKEN, loop.time() - started, {}))
        else:
            outcomes.append(Outcome(answer.status_code, loop.time() - started, dict(answer.headers)))
            if answer.status_code == 429:
                await asyncio.sleep(0.2)  # a client that is told to wait waits, though not as long
    return outcomes


def seconds_of(outcomes: Sequence[Outcome], status: int) -> list[float]:
    """The seconds of those with a status, in order."""
    return sorted(outcome.seconds for outcome in outcomes if outcome.status == status)


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that this part of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
