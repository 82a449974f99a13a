"""What a request is counted as: its end, whoever notices it, in words of a small fixed set."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from lego_serve.core.jobs.job import JobProgress
from tests.support.gateway.client import file_of

URL, EDITS = "/v1/images/generations", "/v1/images/edits"


async def outcomes(client) -> dict[tuple[str, str], int]:
    """The requests counted so far, by workflow and outcome."""
    page = (await client.get("/metrics")).text
    found = re.findall(r'^lego_serve_requests_total\{outcome="(\w+)",workflow="([\w-]+)"\} (\S+)', page, re.M)
    return {(workflow, outcome): int(float(count)) for outcome, workflow, count in found}


class Caller:
    """A client of one request that leaves when told to, without a socket."""

    def __init__(self, app: FastAPI, body: dict[str, Any]) -> None:
        self.leaves, self.sent = asyncio.Event(), list[dict[str, Any]]()
        self.begun = asyncio.Event()  # the first bytes of an answer's body have come
        self._first: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": json.dumps(body).encode()}])
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "path": URL,
            "raw_path": URL.encode(), "query_string": b"", "headers": headers, "http_version": "1.1",
            "scheme": "http", "root_path": "",
        }  # fmt: skip
        self.ended = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        for message in self._first:
            return message
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.leaves.is_set():
            raise OSError("the client has left")
        self.sent.append(message)
        if message.get("body"):
            self.begun.set()


@pytest.mark.parametrize(("is_streamed", "has_begun"), [(False, False), (True, False), (True, True)])
async def test_a_client_that_leaves_is_counted_as_that(client, app, runner, is_streamed: bool, has_begun: bool) -> None:
    """`job_cancelled`, for a whole answer and for a stream before and after its first event, whoever notices first."""
    runner.gate = asyncio.Event()
    runner.progress = [JobProgress(0, 5, 20, 1.5)] if has_begun else []
    body = {"prompt": "a"} | ({"stream": True, "stream_progress": True} if is_streamed else {})
    for _ in range(5):
        caller = Caller(app, body)
        while not runner.waiting:
            await asyncio.sleep(0.001)
        if has_begun:
            await caller.begun.wait()
        caller.leaves.set()
        await asyncio.wait_for(asyncio.gather(caller.ended, return_exceptions=True), 60)
        while runner.waiting:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(60):
        while sum((await outcomes(client)).values()) < 5:
            await asyncio.sleep(0.01)
    assert await outcomes(client) == {("lego-tiny", "job_cancelled"): 5}
    assert "lego_serve_requests_in_flight 0.0" in (await client.get("/metrics")).text


async def test_a_client_that_leaves_in_its_body_is_counted_as_that(client, app) -> None:
    """Its workflow is not known yet."""
    caller = Caller(app, {})
    caller._first = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    caller.leaves.set()
    await caller.ended
    assert await outcomes(client) == {("none", "job_cancelled"): 1}


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"{", "invalid_json"),
        (b'{"prompt": 1}', "invalid_type"),
        (b"{}", "missing"),
        (b'{"prompt": "a", "foo": 1}', "unsupported_parameter"),
        (b'{"prompt": "a", "model": "nope"}', "model_not_found"),
    ],
)
async def test_a_refused_body_is_counted_by_the_code_of_its_error(client, body: bytes, outcome: str) -> None:
    """Three hundred of them are three hundred."""
    for _ in range(300):
        await client.post(URL, content=body, headers={"content-type": "application/json"})
    assert await outcomes(client) == {("none", outcome): 300}


async def test_forms_and_their_files_are_counted_too(client, runner) -> None:
    """Whatever is wrong with them; a body that a workflow refuses is the workflow's."""
    await client.post(EDITS, content=b"x", headers={"content-type": "text/plain"})
    await client.post(EDITS, content=b"x", headers={"content-type": "multipart/form-data"})
    await client.post(EDITS, data={"prompt": "a"}, files={"picture": b"x"})
    await client.post(EDITS, data={"prompt": "a"}, files={"image": b"no image"})
    await client.post(EDITS, data={"prompt": "a"}, files={"image": file_of()})
    found = await outcomes(client)
    assert sum(found.values()) == 5
    assert found["none", "unsupported_media_type"] == 1
    assert found["lego-tiny-img2img", "ok"] == 1
    assert not {outcome for _, outcome in found} & {"internal_error"}


async def test_what_fails_in_the_server_stays_the_servers(client, runner) -> None:
    """An unexpected error is `internal_error`."""
    runner.error = ZeroDivisionError("unexpected")
    assert (await client.post(URL, json={"prompt": "a"})).status_code == 500
    assert await outcomes(client) == {("lego-tiny", "internal_error"): 1}
