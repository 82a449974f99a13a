"""Callers without a right to what they ask for, ids that are none, and names made up to fill something."""

import asyncio
import gc
import hashlib
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of
from tests.support.gateway.refusals import check_refusal, in_flight
from tests.support.gateway.runner import FakeRunner

KEYS = tuple(ApiKey(hashlib.sha256(name.encode()).hexdigest(), name, name == "admin") for name in ("admin", "user"))
ROUTES = [
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/lego-tiny"),
    ("GET", "/v1/templates"),
    ("POST", "/v1/templates"),
    ("DELETE", "/v1/templates/tmpl_a"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/job_a"),
    ("DELETE", "/v1/jobs/job_a"),
]
ADMIN_ROUTES = [
    ("GET", "/v1/admin/jobs"),
    ("GET", "/v1/admin/jobs/job_a"),
    ("DELETE", "/v1/admin/jobs/job_a"),
    ("POST", "/v1/admin/jobs/job_a/pause"),
    ("GET", "/v1/admin/adapters"),
    ("POST", "/v1/admin/adapters"),
    ("DELETE", "/v1/admin/adapters/a"),
]
WRONG_KEYS = {
    "none": None,
    "nothing": "",
    "the scheme alone": "Bearer",
    "an empty key": "Bearer ",
    "another": "Bearer nobody",
    "another scheme": "Basic dXNlcjp1c2Vy",
    "no scheme": "user",
    "its hash": f"Bearer {KEYS[0].sha256}",
    "part of it": "Bearer use",
    "more than it": "Bearer user user",
    "in capitals": "Bearer USER",
    "10 kB": f"Bearer {'a' * 10_000}",
    "a NUL": "Bearer user\0",
    "bytes beyond ASCII": "Bearer \xff\xfe",
    "letters beyond Latin-1": "Bearer \u0443ser",
    "two in one": "Bearer user, Bearer admin",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where templates would be."""
    return tmp_path_factory.mktemp("templates")


def app_of(runner: FakeRunner, folder: Path, keys: tuple[ApiKey, ...] = ()) -> FastAPI:
    """A gateway with templates."""
    settings = GatewaySettings("lego-tiny", keys, max_pending_jobs=2, max_body_bytes=200_000)
    settings = replace(settings, templates=TemplateSettings(folder, 3, 100_000, {"lego-tiny": 300_000}))
    return create_app(runner, runner, settings, Metrics())


@pytest.fixture(scope="module")
def runner() -> FakeRunner:
    """The runner behind one gateway for all cases, which leave nothing."""
    return FakeRunner()


@pytest.fixture(scope="module")
def app(runner: FakeRunner, folder: Path) -> FastAPI:
    """The application without keys."""
    return app_of(runner, folder)


@pytest.fixture(scope="module")
def guarded(folder: Path) -> tuple[FastAPI, FakeRunner]:
    """The application with two tenants, one of them its operator's."""
    runner = FakeRunner()
    return app_of(runner, folder, KEYS), runner


@pytest.fixture
def keyed(guarded: tuple[FastAPI, FakeRunner]) -> tuple[httpx2.AsyncClient, FakeRunner]:
    """A client of that."""
    transport = httpx2.ASGITransport(guarded[0], raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway"), guarded[1]


@pytest.mark.parametrize("kind", WRONG_KEYS)
async def test_without_a_key_nothing_is_answered(keyed, kind: str) -> None:
    """Before the body is looked at, and alike on every route."""
    client, runner = keyed
    key = WRONG_KEYS[kind]
    headers = [] if key is None else [(b"authorization", key.encode("utf-8" if "Latin" in kind else "latin-1"))]
    for method, path in (*ROUTES, *ADMIN_ROUTES):
        answer = await client.request(method, path, headers=headers, content=b"{")
        assert error_of(answer) == (401, "invalid_api_key", None), path
        assert answer.headers["www-authenticate"] == "Bearer"
        check_refusal(answer)
    assert runner.jobs == runner.adapter_requests == runner.asked_to_cancel == []


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_a_users_key_opens_nothing_of_an_operators(keyed, method: str, path: str) -> None:
    """403, and nothing is done."""
    client, runner = keyed
    answer = await client.request(method, path, headers={"authorization": "Bearer user"}, content=b"{}")
    assert error_of(answer) == (403, "insufficient_scope", None)
    check_refusal(answer)
    assert runner.adapter_requests == runner.asked_to_cancel == runner.asked_to_pause == []


@pytest.mark.parametrize(
    "name", ["%00", "%ff", "..", "not-a-uuid", "job_", "a" * 4000, "%E2%80%AE", "{job_id}", "*", "-1", "%0d%0aa:b"]
)
@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/models/{}", "model_not_found"),
        ("GET", "/v1/admin/jobs/{}", "job_not_found"),
        ("DELETE", "/v1/admin/jobs/{}", "job_not_found"),
        ("POST", "/v1/admin/jobs/{}/pause", "job_not_found"),
        ("GET", "/v1/admin/adapters/{}", "adapter_not_found"),
        ("GET", "/v1/templates/{}", "template_not_found"),
        ("DELETE", "/v1/templates/{}", "template_not_found"),
    ],
)
async def test_an_id_that_is_none_is_404(client, runner, method: str, path: str, code: str, name: str) -> None:
    """Not 400, since nothing has it, and never 500; plain words alone come back."""
    answer = await client.request(method, path.replace("{}", name))
    assert answer.status_code == 404 or name == ".."  # which the client resolves
    assert error_of(answer)[1] in (code, "route_not_found", "method_not_allowed")
    is_plain = len(name) < 9 or (name.replace("-", "").isalpha() and len(name) < 300)
    check_refusal(answer, "" if is_plain else name)
    assert runner.jobs == []


@pytest.mark.parametrize("path", ["/debug", "/docs", "/redoc", "/admin", "/.env", "/v1", "/v1/", "/api/jobs/"])
async def test_there_are_no_hidden_routes(client, path: str) -> None:
    """Of frameworks, of Ray, of other servers."""
    assert error_of(await client.get(path)) == (404, "route_not_found", None)


async def test_names_made_up_make_no_time_series(client) -> None:
    """Hundreds of models, methods, routes and ids that do not exist leave the metrics as long as a few."""

    async def ask(number: int) -> None:
        await client.post("/v1/images/generations", json={"prompt": "a", "model": f"model-{number}"})
        await client.get(f"/route-{number}")
        await client.request(f"METHOD{number}", "/v1/models", headers={"x-request-id": f"id-{number}"})

    for number in range(5):
        await ask(number)
    few = (await client.get("/metrics")).text.splitlines()
    for number in range(200):
        await ask(number)
    many = (await client.get("/metrics")).text
    assert len(many.splitlines()) == len(few)
    assert not re.search(r"model-\d|route-\d|METHOD\d|id-\d", many)


async def test_refusals_take_nothing_away(client, app) -> None:
    """After many of several kinds there are as many tasks and open files, and hardly more memory."""

    async def round_of_refusals() -> None:
        json_type = {"content-type": "application/json"}
        form = {"content-type": "multipart/form-data; boundary=x"}
        await client.post("/v1/images/generations", content=b'{"prompt": "a", "n": 11}', headers=json_type)
        await client.post("/v1/images/generations", content=b"[" * 50_000, headers=json_type)
        await client.post("/v1/images/edits", content=b"--x\r\n" + b"a" * 50_000, headers=form)
        await client.post("/v1/images/edits", files={"image": b"no image" * 1000}, data={"prompt": "a"})
        await client.get("/v1/templates/nothing")

    def held() -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

    def memory_bytes() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(100):
        await round_of_refusals()
    before, threads, memory = held(), threading.active_count(), memory_bytes()
    for _ in range(300):
        await round_of_refusals()
    assert held() == before
    assert threading.active_count() <= threads + 4  # the event loop's own pool fills up
    assert memory_bytes() - memory < 4 * 2**20
    assert await in_flight(client) == 0
    assert app.state.body_bytes._total == 0
