"""Every request is one line that says whose it was and how it ended, and nothing of what it asked for."""

import asyncio
import json
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from lego_serve.errors import CapacityError, NodeError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import HEADER
from lego_serve.gateway.settings import ApiKey
from lego_serve.gateway.telemetry.access_log import AccessLog
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live, file_of

URL = "/v1/images/generations"
SECRET = "a painting of nobody's business"
TRACE = "0af7651916cd43dd8448eb211c80319c"
KEYS = tuple(
    ApiKey(sha256(token.encode()).hexdigest(), tenant, is_admin)
    for token, tenant, is_admin in (("root", "ops", True), ("user", "acme", False))
)


def keyed(runner, settings) -> httpx2.AsyncClient:
    """A client of a gateway with keys."""
    app = create_app(runner, runner, replace(settings, keys=KEYS), Metrics())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway")


def bearer(token: str) -> dict[str, str]:
    """The headers of a key's holder."""
    return {"authorization": f"Bearer {token}"}


async def test_a_request_is_one_line_with_its_ids_route_status_and_size(runner, settings, logged) -> None:
    """The job's id and the tenant are there from when they are known, the trace where the caller named one."""
    headers = bearer("user") | {"x-request-id": "r1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with keyed(runner, settings) as client:
        answer = await client.post(URL, json={"prompt": SECRET}, headers=headers)
    [line] = logged("lego_serve.access")
    assert (line["method"], line["route"], line["status"], line["bytes"]) == ("POST", URL, 200, len(answer.content))
    assert (line["request_id"], line["job_id"], line["tenant"]) == ("r1", "job_r1", "acme")
    assert line["trace_id"] == TRACE
    assert 0 <= line["duration_s"] < 60
    assert "error" not in line


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "error"),
    [
        ("GET", "/v1/admin/jobs/job_secret?signature=secret", "/v1/admin/jobs/{job_id}", 404, "job_not_found"),
        ("HEAD", "/v1/models/lego-tiny", "/v1/models/{name}", 200, None),
        ("GET", "/secret?signature=secret", None, 404, "route_not_found"),
        ("PUT", "/v1/models", "/v1/models", 405, "method_not_allowed"),
        ("POST", URL, URL, 415, "unsupported_media_type"),
    ],
)
async def test_lines_name_the_template_of_the_route_and_the_error(
    client, logged, method: str, path: str, route: str | None, status: int, error: str | None
) -> None:
    """Never the path or the query: they hold what clients like, signatures among it."""
    await client.request(method, path)
    [line] = logged("lego_serve.access")
    assert (line["method"], line["route"], line["status"], line.get("error")) == (method, route, status, error)
    assert "secret" not in json.dumps(logged("lego_serve"))


@pytest.mark.parametrize("error", [None, NodeError("It failed."), CapacityError("Full."), RuntimeError("a bug")])
@pytest.mark.parametrize("streams", [False, True])
async def test_no_line_has_a_prompt(client, runner, logged, error: Exception | None, streams: bool) -> None:
    """However the request ends; every line about it has its id and its job's."""
    runner.error = error
    await client.post(URL, json={"prompt": SECRET, "negative_prompt": SECRET, "stream": streams})
    await client.post(URL, json={"prompt": SECRET, "size": SECRET})
    lines = logged("lego_serve")
    assert SECRET not in json.dumps(lines)
    mine = [line for line in lines if line["request_id"] == lines[0]["request_id"]]
    assert {line.get("job_id") for line in mine} == {f"job_{lines[0]['request_id']}"}
    assert [line["logger"] for line in lines].count("lego_serve.access") == 2


async def test_prompts_are_logged_where_the_operator_asks_for_them(runner, settings, logged) -> None:
    """In the request's own line, of generations and edits."""
    app = create_app(runner, runner, replace(settings, log_prompts=True), Metrics())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
        await client.post(URL, json={"prompt": SECRET})
        await client.post("/v1/images/edits", data={"prompt": SECRET}, files={"image": file_of()})
    assert [line["prompt"] for line in logged("lego_serve.access")] == [SECRET, SECRET]


async def test_more_lines_of_requests_than_of_anything_else(client, logged) -> None:
    """Each of thirty alike within a moment is written."""
    for _ in range(30):
        await client.get("/health/live")
    assert len(logged("lego_serve.access")) == 30


async def test_a_supervisor_that_asks_each_second_leaves_no_lines(app, logged) -> None:
    """By the gateway's own socket, which has no address; what else is asked there is a line."""
    transport = httpx2.ASGITransport(app, client=None)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for _ in range(3):
            assert (await client.get("/health/live")).status_code == 200
        await client.get("/health/ready")
    assert [line["route"] for line in logged("lego_serve.access")] == ["/health/ready"]


async def test_lines_of_requests_can_be_switched_off_and_those_of_operators_not(runner, settings, logged) -> None:
    """Whoever counts requests elsewhere still learns who cancelled a job."""
    app = create_app(runner, runner, replace(settings, access_log=False), Metrics())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
        await client.delete("/v1/admin/jobs/job_known")
    assert not logged("lego_serve.access")
    assert len(logged("lego_serve.audit")) == 1


async def test_requests_at_once_do_not_mix_their_ids(runner, settings, logged) -> None:
    """Each line has the tenant and job of its own request."""
    async with keyed(runner, settings) as client:
        users = [bearer("user") | {"x-request-id": "u"}, bearer("root") | {"x-request-id": "r"}]
        runner.gate = asyncio.Event()
        asking = [asyncio.ensure_future(client.post(URL, json={"prompt": "a"}, headers=headers)) for headers in users]
        while len(runner.waiting) < 2:
            await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*asking)
    found = {(line["request_id"], line["job_id"], line["tenant"]) for line in logged("lego_serve.access")}
    assert found == {("u", "job_u", "acme"), ("r", "job_r", "ops")}


def test_a_body_that_is_refused_on_its_way_has_the_status_that_the_client_saw(app, logged) -> None:
    """Though the application never got to answer it."""
    body = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with Live(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{body}Transfer-Encoding: chunked\r\n\r\nno length\r\n".encode())
            status = int(connection.recv(4096).split()[1])
    [line] = logged("lego_serve.access")
    assert (line["status"], status) == (400, 400)
    assert line["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "action", "target", "outcome"),
    [
        ("DELETE", "/v1/admin/jobs/job_known", None, "cancel_job", "job_known", "ok"),
        ("DELETE", "/v1/admin/jobs/job_no", None, "cancel_job", "job_no", "job_not_found"),
        ("POST", "/v1/admin/jobs/job_known/pause", None, "pause_job", "job_known", "ok"),
        ("POST", "/v1/admin/replicas/r1/drain", None, "drain_replica", "r1", "ok"),
        ("POST", "/v1/admin/adapters", {"id": "taken", "path": "x"}, "register_adapter", "taken", "registry_full"),
        ("DELETE", "/v1/admin/adapters/b", None, "remove_adapter", "b", "ok"),
    ],
)
async def test_every_action_of_an_operator_is_a_line(
    runner, settings, logged, method: str, path: str, body: object, action: str, target: str, outcome: str
) -> None:
    """Who did what, on what, and what came of it."""
    async with keyed(runner, settings) as client:
        await client.request(method, path, json=body, headers=bearer("root"))
    [line] = logged("lego_serve.audit")
    assert (line["action"], line["target"], line["outcome"]) == (action, target, outcome)
    assert (line["tenant"], line["key"]) == ("ops", sha256(b"root").hexdigest()[:12])


def test_the_page_lists_every_action_that_may_be_in_a_line(app) -> None:
    """A route below /v1/admin that changes something is one."""
    page = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    [listed] = [line for line in page.splitlines() if line.startswith("| `action`, `target` |")]
    actions = {
        operation["summary"].lower().replace(" ", "_")  # the name of its function
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/admin") and method not in ("get", "head")
    }
    assert "drain_replica" in actions
    assert not {action for action in actions if f"`{action}`" not in listed}


async def test_attempts_of_others_are_lines_too_and_reading_is_none(runner, settings, logged) -> None:
    """A known key without the scope is named; an unknown one is not, since there is nothing to name it by."""
    async with keyed(runner, settings) as client:
        for token in ("user", "nobody"):
            await client.delete("/v1/admin/jobs/job_known", headers=bearer(token))
        await client.get("/v1/admin/jobs", headers=bearer("root"))
    assert [(line["outcome"], line["key"], line.get("tenant")) for line in logged("lego_serve.audit")] == [
        ("insufficient_scope", sha256(b"user").hexdigest()[:12], "acme"),
        ("invalid_api_key", "none", None),
    ]


async def test_an_action_passed_on_between_gateways_is_one_line(app, logged) -> None:
    """A peer comes by a socket without an address; a client that only says so is written down."""
    for address in (None, ("10.0.0.1", 9)):
        transport = httpx2.ASGITransport(app, client=address)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await client.delete("/v1/admin/jobs/job_known", headers={HEADER: "1"})
    assert len(logged("lego_serve.audit")) == 1


async def test_a_websocket_is_one_line_too(logged) -> None:
    """With the status that began it, the bytes that were sent, and nothing of its query."""

    async def application(scope, receive, send) -> None:
        if scope["path"] == "/refused":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "four"})
        await send({"type": "websocket.send", "bytes": b"five5"})
        await send({"type": "websocket.close"})

    async def nothing(*message: object) -> None:
        """Take it."""

    for path in ("/taken", "/refused"):
        scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"token=secret", "state": {}}
        await AccessLog(application)(scope, nothing, nothing)
    assert [(line["status"], line["bytes"]) for line in logged("lego_serve.access")] == [(101, 9), (403, 0)]
    assert "secret" not in json.dumps(logged("lego_serve"))
