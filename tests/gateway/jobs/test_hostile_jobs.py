"""Requests about durable jobs that nobody should make: each has its status, code and field, and leaves no job."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import Cluster, Gateway, until
from tests.support.gateway.refusals import check_refusal, in_flight, nothing_left

pytestmark = pytest.mark.asyncio(loop_scope="module")
JOBS = "/v1/jobs"
BODY = {"prompt": "a"}
GOOD: dict[str, Any] = {"endpoint": "/v1/images/generations", "body": BODY}
EDIT = "/v1/images/edits"
HELLO = "aGVsbG8="

REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    (GOOD | {"priority": 11}, "out_of_range", "priority"),
    (GOOD | {"priority": -11}, "out_of_range", "priority"),
    (GOOD | {"priority": 1.5}, "invalid_type", "priority"),
    (GOOD | {"priority": "high"}, "invalid_type", "priority"),
    (GOOD | {"priority": True}, "invalid_type", "priority"),
    (GOOD | {"deadline_ms": 0}, "out_of_range", "deadline_ms"),
    (GOOD | {"deadline_ms": -1}, "out_of_range", "deadline_ms"),
    (GOOD | {"deadline_ms": 30 * 86_400_000 + 1}, "out_of_range", "deadline_ms"),
    (GOOD | {"deadline_ms": 1e300}, "invalid_type", "deadline_ms"),
    (GOOD | {"metadata": {str(number): "a" for number in range(17)}}, "too_many", "metadata"),
    (GOOD | {"metadata": {"k" * 65: "a"}}, "invalid_value", "metadata"),
    (GOOD | {"metadata": {"k": "v" * 513}}, "invalid_value", "metadata.k"),
    (GOOD | {"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
    (GOOD | {"metadata": {"<img src=x onerror=alert(1)>": 1}}, "invalid_type", "metadata"),
    (GOOD | {"metadata": []}, "invalid_type", "metadata"),
    (GOOD | {"webhook": "https://hooks.example/"}, "invalid_type", "webhook"),
    (GOOD | {"webhook": {}}, "missing", "webhook.url"),
    (GOOD | {"webhook": {"url": "https://hooks.example/", "events": ["x"]}}, "invalid_value", "webhook.events[0]"),
    (GOOD | {"webhook": {"url": "https://hooks.example/", "secret": "x"}}, "unsupported_parameter", "webhook.secret"),
    (GOOD | {"endpoint": "/v1/admin/jobs"}, "invalid_value", "endpoint"),
    (GOOD | {"endpoint": "http://other/v1/images/generations"}, "invalid_value", "endpoint"),
    (GOOD | {"endpoint": "/v1/images/generations/../edits"}, "invalid_value", "endpoint"),
    (GOOD | {"body": []}, "invalid_type", "body"),
    (GOOD | {"body": {}}, "missing", "prompt"),
    (GOOD | {"body": BODY | {"n": 11}}, "out_of_range", "n"),
    (GOOD | {"body": BODY | {"size": "128x"}}, "invalid_value", "size"),
    (GOOD | {"body": BODY | {"lora": [{"name": "../../etc/passwd"}]}}, "invalid_value", "lora[0].name"),
    (GOOD | {"body": BODY | {"tenant": "other"}}, "unsupported_parameter", "tenant"),
    (GOOD | {"tenant": "other"}, "unsupported_parameter", "tenant"),
    (GOOD | {"id": "job_1"}, "unsupported_parameter", "id"),
    (GOOD | {"attempt": 1}, "unsupported_parameter", "attempt"),
    ({}, "missing", "endpoint"),
    ({"endpoint": "/v1/images/generations"}, "missing", "endpoint"),
    (GOOD | {"workflow": "lego-tiny", "inputs": {}}, "missing", "endpoint"),
    ({"workflow": "lego-tiny", "inputs": {}}, "missing", "prompt"),
    ({"workflow": "lego-tiny", "inputs": BODY | {"width": True, "height": 128}}, "invalid_value", "inputs"),
    ({"workflow": "lego-tiny", "inputs": BODY | {"width": 10**40, "height": 128}}, "invalid_value", "size"),
    ({"workflow": "lego-tiny", "inputs": BODY | {"nothing": 1}}, "unsupported_parameter", "nothing"),
    ({"endpoint": EDIT, "body": BODY}, "missing", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": None, "mask": None}}, "missing", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": ""}}, "invalid_image", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": HELLO, "n": "5"}}, "invalid_type", "n"),
    ({"endpoint": EDIT, "body": BODY | {"image": HELLO, "strength": True}}, "invalid_type", "strength"),
    ({"endpoint": EDIT, "body": BODY | {"image": "!"}}, "invalid_base64", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": 5}}, "invalid_type", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": HELLO}}, "invalid_image", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": "http://169.254.169.254/"}}, "invalid_base64", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": "file:///etc/passwd"}}, "invalid_base64", "image"),
    ({"endpoint": EDIT, "body": BODY | {"mask": HELLO}}, "missing", "image"),
    ({"endpoint": EDIT, "body": BODY | {"image": HELLO, "lora": "[{"}}, "invalid_json", "lora"),
]
RAW = {
    b"": "invalid_json",
    b"[]": "invalid_json",
    b'{"endpoint":"/v1/images/generations","body":{"prompt":"a","prompt":"b"}}': "duplicate_field",
    b'{"endpoint":"/v1/images/generations","endpoint":"/v1/images/edits","body":{}}': "duplicate_field",
    b'{"endpoint":"/v1/images/generations","body":{"prompt":"\\ud800"}}': "invalid_json",
    b'{"endpoint":"/v1/images/generations","body":{"prompt":"a","guidance_scale":NaN}}': "invalid_value",
    b'{"endpoint":"/v1/images/generations","body":{"prompt":"a","guidance_scale":1e999}}': "invalid_value",
    b'{"endpoint":"/v1/images/generations","body":{"prompt":"a","seed":%b}}' % (b"1" * 5000): "invalid_json",
    b'{"endpoint":"/v1/images/generations","body":{"user":%b}}' % (b"[" * 900 + b"]" * 900): "invalid_json",
}
HEADERS: list[tuple[str, bytes, str]] = [
    *(("idempotency-key", key, "invalid_idempotency_key") for key in (b"", b"a" * 256, b"a\tb", b"\xff\xfe", b"\x7f")),
    *(
        ("prefer", wait, "invalid_prefer")
        for wait in (b"wait", b"wait=", b"wait=0", b"wait=61", b"wait=-1", b"wait=1e1", b"wait=00000000001999",
                     b"wait=" + b"1" * 5000, b"wait=\xd9\xa1", b"respond-async, wait=1.5")
    ),
]  # fmt: skip
QUERIES = [
    ("limit=0", "out_of_range", "limit"),
    ("limit=101", "out_of_range", "limit"),
    ("limit=abc", "invalid_type", "limit"),
    ("limit=1.5", "invalid_type", "limit"),
    ("limit=%00", "invalid_type", "limit"),
    (f"limit={'9' * 5000}", "invalid_type", "limit"),
    (f"after={'a' * 65}", "invalid_value", "after"),
    ("order=up", "invalid_value", "order"),
    ("status=paused", "invalid_value", "status"),
    (f"model={'a' * 257}", "invalid_value", "model"),
]
NO_IDS = [
    "nothing",
    "%00",
    "%ff",
    "job_",
    "job_" + "0" * 31,
    "job_" + "0" * 32,
    "job_" + "Z" * 32,
    "..%2f..",
    "a" * 4000,
]
RANGES = [
    "bytes=5-2", "items=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=\u0660-", "bytes=--1", "\xff",
    "bytes=0-" + "9" * 5000, "bytes=" + ",".join(["0-"] * 1000), "bytes=" + "0-0," * 3000,
    "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 190, 2)),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One gateway for all cases, which leave nothing; without keys."""
    cluster = Cluster(tmp_path_factory.mktemp("hostile") / "jobs", GatewaySettings("lego-tiny", max_body_bytes=200_000))
    async with cluster.gateway() as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> AsyncIterator[Gateway]:
    """The gateway, which must have accepted nothing when the test ends."""
    before = (await running.client.get(JOBS)).json()["data"]
    with nothing_left(running.app, running.runner):
        yield running
        assert (await running.client.get(JOBS)).json()["data"] == before
        assert await in_flight(running.client) == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job(running: Gateway) -> dict[str, Any]:
    """A job that is completed."""
    accepted = (await running.client.post(JOBS, json=GOOD)).json()
    return await until(running.client, accepted["id"])


@pytest.mark.parametrize(("body", "code", "param"), REFUSED)
async def test_a_job_that_cannot_be_is_refused(gateway: Gateway, body, code, param) -> None:
    """At submit, by the field; what it was to run is checked as the route of images checks it."""
    answer = await gateway.client.post(JOBS, json=body)
    assert error_of(answer) == (400, code, param), answer.text
    check_refusal(answer)
    assert "passwd" not in answer.text
    assert "<img" not in answer.text


@pytest.mark.parametrize("raw", RAW)
async def test_a_body_that_is_no_job_is_refused(gateway: Gateway, raw: bytes) -> None:
    """What is within it is JSON of the same rules."""
    answer = await gateway.client.post(JOBS, content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, RAW[raw])
    check_refusal(answer)


@pytest.mark.parametrize(("name", "value", "code"), HEADERS)
@pytest.mark.parametrize("route", [JOBS, "/v1/images/generations"])
async def test_a_header_that_cannot_be_is_refused(gateway: Gateway, route, name, value, code) -> None:
    """On every route that reads it, however long its numbers are."""
    headers = [(b"content-type", b"application/json"), (name.encode(), value)]
    content = json.dumps(GOOD if route == JOBS else BODY).encode()
    answer = await gateway.client.post(route, content=content, headers=headers)
    assert error_of(answer) == (400, code, None)
    check_refusal(answer)


@pytest.mark.parametrize(("query", "code", "param"), QUERIES)
async def test_a_list_that_cannot_be_is_refused(gateway: Gateway, query, code, param) -> None:
    """By its parameter, as fields are."""
    answer = await gateway.client.get(f"{JOBS}?{query}")
    assert error_of(answer) == (400, code, param)
    check_refusal(answer)


@pytest.mark.parametrize("cursor", ["%00", "%ff", "nothing", "%F0%9F%98%80", "zzz", "job_"])
async def test_a_cursor_need_not_be_an_id(gateway: Gateway, cursor: str) -> None:
    """It is a place in an order, and a list after it may be empty."""
    assert (await gateway.client.get(f"{JOBS}?after={cursor}")).status_code == 200


@pytest.mark.parametrize("job_id", NO_IDS)
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/result"), ("GET", "/images/0")],
)
async def test_an_id_that_no_job_has_is_404(gateway: Gateway, method: str, rest: str, job_id: str) -> None:
    """Whatever it looks like."""
    answer = await gateway.client.request(method, f"{JOBS}/{job_id}{rest}")
    assert answer.status_code == 404
    assert error_of(answer)[1] in ("job_not_found", "route_not_found")
    check_refusal(answer, job_id if len(job_id) > 8 else "")


@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [
        ("/images/-1", 404, "image_not_found"),
        ("/images/1", 404, "image_not_found"),
        ("/images/abc", 400, "invalid_type"),
        ("/images/1e0", 400, "invalid_type"),
        ("/images/%D9%A0", 400, "invalid_type"),
        (f"/images/{'9' * 5000}", 400, "invalid_type"),
        (f"/images/0?expires=1&signature={'0' * 64}", 401, "invalid_signature"),
        ("/images/0?expires=1", 401, "invalid_signature"),
        ("/images/0?signature=", 401, "invalid_signature"),
        (f"/images/0?expires={'9' * 12}&signature={'0' * 64}", 401, "invalid_signature"),
        (f"/images/0?expires={'9' * 30}&signature={'0' * 64}", 400, "invalid_value"),
        ("/nothing", 404, "route_not_found"),
        ("%00", 404, "job_not_found"),
    ],
)
async def test_a_job_has_no_more_than_it_has(running: Gateway, job, rest: str, status: int, code: str) -> None:
    """No other image, no other route, and no link that the server did not sign."""
    answer = await running.client.get(f"{JOBS}/{job['id']}{rest}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    check_refusal(answer)


async def test_a_range_that_is_no_part_of_a_file_is_passed_over(running: Gateway, job) -> None:
    """A thousand of them too: the whole file comes once.  One that lies behind the end is 416."""
    client, url = running.client, f"{JOBS}/{job['id']}/images/0"
    whole = (await client.get(url)).content
    for value in RANGES:
        answer = await client.get(url, headers=[(b"range", value.encode("latin-1" if value == "\xff" else "utf-8"))])
        assert (answer.status_code, answer.content == whole) == (200, True), value[:40]
    beyond = await client.get(url, headers={"range": "bytes=999999999-"})
    assert (beyond.status_code, beyond.content) == (416, b"")
    part = await client.get(url, headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, whole[1:4])


async def test_a_record_that_cannot_be_read_is_ours_and_stops_no_other(tmp_path: Path) -> None:
    """Such as one of a later version: its job is 500 with a code, and all others are accepted, run and listed."""
    cluster = Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"))
    async with cluster.gateway() as gateway:
        damaged = (await gateway.client.post(JOBS, json=GOOD)).json()["id"]
        await until(gateway.client, damaged)
        database = apsw.Connection(str(cluster.folder / "jobs.db"))
        database.execute(
            "UPDATE jobs SET record=replace(record, '\"format\":1', '\"format\":2') WHERE id=?", (damaged,)
        )
        database.close()
        for path in (f"{JOBS}/{damaged}", f"{JOBS}/{damaged}/result"):
            answer = await gateway.client.get(path)
            assert error_of(answer) == (500, "unreadable_record", None)
        assert (await gateway.client.get(JOBS)).json()["data"] == []
        after = (await gateway.client.post(JOBS, json=GOOD)).json()["id"]
        assert (await until(gateway.client, after))["status"] == "completed"
        assert [job["id"] for job in (await gateway.client.get(JOBS)).json()["data"]] == [after]
