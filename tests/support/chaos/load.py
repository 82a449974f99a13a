"""Clients that ask a server for images over and over, and what became of each request."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import httpx2

from tests.support.e2e.images import PROMPT

BODY = {"prompt": PROMPT, "size": "96x96", "num_inference_steps": 4}
BROKEN = 0  # in place of a status: the connection broke


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one request: its status, the seconds it took, its headers, and when in the load it came."""

    status: int
    seconds: float
    headers: Mapping[str, str]
    came_s: float = 0.0


async def drive(
    url: str, clients: int, seconds: float, body: Mapping[str, object] = BODY, headers: Mapping[str, str] = {}
) -> list[Outcome]:
    """Have so many clients ask one request after the other for so long; return all outcomes."""
    began = asyncio.get_running_loop().time()
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(timeout=120, limits=limits, headers=dict(headers)) as http:
        asking = (_client(http, url, number, (began, began + seconds), body) for number in range(clients))
        outcomes = await asyncio.gather(*asking)
    return [outcome for each in outcomes for outcome in each]


async def offer(url: str, rate: float, seconds: float, rng: Random) -> list[Outcome]:
    """Send requests at random moments, so many a second whatever becomes of them; return all outcomes.

    Each is counted from the moment when it was to be sent (no coordinated omission).
    """
    loop = asyncio.get_running_loop()
    began, due_s, sent = loop.time(), 0.0, []
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(timeout=120, limits=limits) as http:
        while (due_s := due_s + rng.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, began + due_s - loop.time()))
            wanted = {"seed": len(sent)} | BODY
            sent.append(asyncio.ensure_future(_ask(http, url, wanted, began, began + due_s)))
        return list(await asyncio.gather(*sent))


async def _client(
    http: httpx2.AsyncClient, url: str, number: int, between: tuple[float, float], body: Mapping[str, object]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    loop, (began, until) = asyncio.get_running_loop(), between
    while loop.time() < until:
        wanted = {"seed": number * 100_000 + len(outcomes)} | body
        outcomes.append(await _ask(http, url, wanted, began, loop.time()))
        if outcomes[-1].status == 429:
            await asyncio.sleep(0.2)  # a client that is told to wait waits, though not as long
    return outcomes


async def _ask(http: httpx2.AsyncClient, url: str, body: Mapping[str, object], began: float, due: float) -> Outcome:
    """One request of a load that began at a moment, and was to send it at another."""
    loop = asyncio.get_running_loop()
    try:
        answer = await http.post(f"{url}/v1/images/generations", json=body)
    except httpx2.TransportError:
        return Outcome(BROKEN, loop.time() - due, {}, loop.time() - began)
    return Outcome(answer.status_code, loop.time() - due, dict(answer.headers), loop.time() - began)


def seconds_of(outcomes: Sequence[Outcome], status: int) -> list[float]:
    """The seconds of those with a status, in order."""
    return sorted(outcome.seconds for outcome in outcomes if outcome.status == status)


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that this part of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
