"""What every refusal must be, and what it must leave behind: nothing."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from fastapi import FastAPI

from tests.support.gateway.runner import FakeRunner

# What only the inside of the server says: addresses, paths, modules and exceptions.
INSIDE = re.compile(r"0x[0-9a-f]{6,}|/(work|tmp|usr|root|home)/|site-packages|Traceback|\w+Error\b|pydantic|starlette")


def check_refusal(answer: httpx2.Response, sent: str = "") -> None:
    """Assert that an answer is an error in OpenAI's shape, says nothing of the inside, and repeats nothing sent."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.content) < 2000
    assert not INSIDE.search(json.dumps(error))
    assert not sent or sent not in json.dumps(error, ensure_ascii=False)


@contextmanager
def nothing_left(app: FastAPI, runner: FakeRunner) -> Iterator[None]:
    """Assert that what happens within makes no job and leaves no place, no body and no open file."""
    before, jobs = len(os.listdir("/proc/self/fd")), len(runner.jobs)
    yield
    assert len(runner.jobs) == jobs
    assert runner.in_flight == 0
    assert (app.state.body_bytes._total, app.state.body_bytes._bodies) == (0, set())
    assert len(os.listdir("/proc/self/fd")) <= before


async def in_flight(client: httpx2.AsyncClient, **headers: str) -> float:
    """The gauge of requests in flight."""
    page = (await client.get("/metrics", headers=headers)).text
    [found] = re.findall(r"^lego_serve_requests_in_flight (\S+)$", page, re.M)
    return float(found)
