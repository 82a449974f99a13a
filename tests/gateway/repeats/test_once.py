"""An `Idempotency-Key` on routes that make no images: what was done once is answered again, and done no second time."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.json_text import LIMITS
from lego_serve.core.nodes.requests import AdapterAdminRequest, ModelAdapters
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.jobs import once
from lego_serve.gateway.media.body_hash import MAX_JSON_BYTES, BodyHash
from lego_serve.gateway.settings import ApiKey, GatewaySettings, TemplateSettings
from tests.support.clocks import HandClock
from tests.support.gateway.client import error_of, file_of
from tests.support.gateway.durable import Cluster, wait_until

KEY = {"idempotency-key": "once"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One store, and room for templates."""
    templates = TemplateSettings(tmp_path / "templates", 3, 100_000, {"lego-tiny": 300_000})
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", templates=templates))


async def test_a_template_is_registered_once(cluster: Cluster) -> None:
    """Though each try has a boundary of its own; the second gateway gives the first one's answer."""
    async with cluster.gateway() as first, cluster.gateway() as second:
        answers = [
            await gateway.client.post("/v1/templates", files={"image": file_of(9)}, headers=KEY)
            for gateway in (first, second, first)
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
        assert len((await first.client.get("/v1/templates")).json()["data"]) == 1
        other = await first.client.post("/v1/templates", files={"image": file_of(8)}, headers=KEY)
        assert error_of(other)[:2] == (422, "idempotency_key_reused")


async def test_what_was_removed_is_removed_once(cluster: Cluster) -> None:
    """Without the key a second try finds nothing; with it, that it was done."""
    async with cluster.gateway() as gateway:
        card = (await gateway.client.post("/v1/templates", files={"image": file_of(9)})).json()
        for _ in range(2):
            answer = await gateway.client.delete(f"/v1/templates/{card['id']}", headers=KEY)
            assert answer.status_code == 204, answer.text
        assert (await gateway.client.delete(f"/v1/templates/{card['id']}")).status_code == 404


async def test_a_repeat_waits_for_the_first(cluster: Cluster) -> None:
    """Both come to the same answer, and one adapter is registered."""
    async with cluster.gateway() as gateway:
        body = {"id": "x", "path": "y"}
        answers = await asyncio.gather(
            *(gateway.client.post("/v1/admin/adapters", json=body, headers=KEY) for _ in range(4))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len(gateway.runner.adapter_requests) == 1


async def test_a_repeat_waits_for_a_first_that_takes_long(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much longer than a gateway that has died is waited for: the first says that it is at work."""
    monkeypatch.setattr(once, "RUNNING_S", 0.6)
    monkeypatch.setattr(once, "SAY_S", 0.05)
    clock, said = HandClock(), list[str]()
    cluster.wall = lambda: 1_800_000_000.0 + clock()
    async with cluster.gateway() as gateway:
        register, gate = gateway.runner.adapters, asyncio.Event()
        store = gateway.app.state.jobs.store
        note = store.note

        async def note_down(name: str, text: str, keep_s: float, *, replaces: bool) -> str:
            kept: str = await note(name, text, keep_s, replaces=replaces)
            if replaces:
                said.append(text)
            return kept

        monkeypatch.setattr(store, "note", note_down)

        async def register_late(model: str | None, request: AdapterAdminRequest) -> ModelAdapters:
            await gate.wait()
            return await register(model, request)

        monkeypatch.setattr(gateway.runner, "adapters", register_late)
        body = {"id": "x", "path": "y"}
        both = [
            asyncio.ensure_future(gateway.client.post("/v1/admin/adapters", json=body, headers=KEY)) for _ in range(2)
        ]
        for _ in range(8):
            before = len(said)
            clock.now_s += 0.25  # less than half of what a gateway is waited for, which one word may be late by
            await wait_until(lambda before=before: len(said) > before)
        gate.set()
        answers = await asyncio.gather(*both)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len(gateway.runner.adapter_requests) == 1


async def test_an_error_that_may_pass_is_not_kept(cluster: Cluster) -> None:
    """The next try is carried out."""
    async with cluster.gateway() as gateway:
        full = await gateway.client.post("/v1/admin/adapters", json={"id": "taken", "path": "y"}, headers=KEY)
        assert full.status_code == 429
        again = await gateway.client.post("/v1/admin/adapters", json={"id": "taken", "path": "y"}, headers=KEY)
        assert again.headers.get("idempotency-replayed") is None
        assert len(gateway.runner.adapter_requests) == 2


async def test_whoever_repeats_a_request_at_once_need_not_wait_for_the_first_to_be_forgotten(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client does that repeats an error that may pass; the note of the first lapses late here."""
    monkeypatch.setattr(once, "FORGET_S", 0.2)
    async with cluster.gateway() as gateway:
        for count in (1, 2, 3):
            full = await gateway.client.post("/v1/admin/adapters", json={"id": "taken", "path": "y"}, headers=KEY)
            assert (full.status_code, len(gateway.runner.adapter_requests)) == (429, count)


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away while the request is at work; a whole answer comes, and the work is not undone."""
    async with cluster.gateway() as gateway:
        store = gateway.app.state.jobs.store
        note = store.note

        async def note_once(name: str, text: str, keep_s: float, *, replaces: bool) -> str:
            if replaces:
                raise StoreUnavailable("The job store does not answer; try again later.")
            kept: str = await note(name, text, keep_s, replaces=replaces)
            return kept

        monkeypatch.setattr(store, "note", note_once)
        answer = await gateway.client.post("/v1/admin/adapters", json={"id": "x", "path": "y"}, headers=KEY)
        assert (answer.status_code, len(gateway.runner.adapter_requests)) == (200, 1), answer.text


async def test_where_there_are_no_api_keys_all_callers_are_one_tenant(cluster: Cluster) -> None:
    """Whatever credentials they send."""
    async with cluster.gateway() as gateway:
        for who, is_replayed in (("a", None), ("b", "true")):
            headers = KEY | {"authorization": f"Bearer {who}"}
            answer = await gateway.client.post("/v1/templates", files={"image": file_of(9)}, headers=headers)
            assert answer.headers.get("idempotency-replayed") == is_replayed


async def test_a_key_counts_for_its_tenant_as_long_as_that_may_ask(cluster: Cluster) -> None:
    """With whichever of its API keys; one that is not known, or not any more, is answered nothing that was kept."""
    digest = {token: hashlib.sha256(token.encode()).hexdigest() for token in ("one", "two", "admin", "other")}
    own = [ApiKey(digest[token], "team", is_admin=token == "admin") for token in ("one", "two", "admin")]
    cluster.settings = replace(cluster.settings, keys=(*own, ApiKey(digest["other"], "other", is_admin=False)))
    statuses = []
    async with cluster.gateway() as gateway:
        for token in ("one", "two", "admin", "other", "nobody"):
            headers = KEY | {"authorization": f"Bearer {token}"}
            answer = await gateway.client.post("/v1/templates", files={"image": file_of(9)}, headers=headers)
            statuses.append((answer.status_code, answer.headers.get("idempotency-replayed")))
    known = (200, None)  # the template is there; its answer was not, for those who may do more
    assert statuses == [(201, None), (201, "true"), known, (201, None), (401, None)]


async def test_json_is_compared_by_its_values(cluster: Cluster) -> None:
    """A client may write the same in another order."""
    async with cluster.gateway() as gateway:
        headers = KEY | {"content-type": "application/json"}
        told = []
        for content in ('{"id": "x", "path": "y"}', '{ "path":"y","id":"x" }', '{"id": "x", "path": "z"}'):
            answer = await gateway.client.post("/v1/admin/adapters", content=content, headers=headers)
            told.append((answer.status_code, answer.headers.get("idempotency-replayed")))
        assert told == [(200, None), (200, "true"), (422, None)]


LONG_JSON = b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}'


@pytest.mark.parametrize(
    ("texts", "is_same"),
    [
        ((LONG_JSON, LONG_JSON), True),
        ((LONG_JSON, LONG_JSON + b" "), False),
        ((b"{", b"{ "), False),
        ((b"[1]", b"[ 1]"), True),
        ((b'["' + b"x" * 100_000 + b'"]', b'[ "' + b"x" * 100_000 + b'"]'), True),
        ((b"[" * LIMITS.depth + b"]" * LIMITS.depth, b"[" * LIMITS.depth + b" " + b"]" * LIMITS.depth), True),
        ((b"[" * 900 + b"]" * 900, b"[" * 900 + b" " + b"]" * 900), False),
        ((b"[" + b"1," * LIMITS.values + b"1]", b"[" + b"1," * LIMITS.values + b"1 ]"), False),
    ],
    ids=["long", "longer by a blank", "none", "short", "one long string", "deep", "too deep", "too many values"],
)
async def test_json_beyond_the_bounds_is_compared_by_its_bytes(texts: tuple[bytes, bytes], is_same: bool) -> None:
    """As is what is none: no route takes it, and to read it would hold up all other requests."""
    digests = set()
    for text in texts:
        hashed = BodyHash("POST", "/v1/jobs", "application/json; charset=utf-8")
        for at in range(0, len(text), 400_000):
            hashed.add(text[at : at + 400_000])
        digests.add(await hashed.digest())
    assert (len(digests) == 1) == is_same


async def test_without_a_store_a_key_is_refused(cluster: Cluster, client) -> None:
    """Rather than taken and not honoured."""
    answer = await client.post("/v1/admin/adapters", json={"id": "x", "path": "y"}, headers=KEY)
    assert error_of(answer)[:2] == (503, "jobs_disabled")


@given(st.lists(st.binary(max_size=9), max_size=6), st.lists(st.integers(1, 7), min_size=1))
def test_the_hash_of_a_body_does_not_depend_on_its_boundary_or_its_pieces(parts: list[bytes], sizes: list[int]) -> None:
    """Whatever lies across two pieces."""
    digests = set()
    for boundary, pieces, more in ((b"xxBOUNDxx", sizes, ""), (b"another-one", [3], "; charset=utf-8")):
        body = b"--" + boundary + (b"\r\n--" + boundary).join(parts) + b"--" + boundary + b"--"
        hashed = BodyHash("POST", "/v1/templates", f"multipart/form-data; boundary={boundary.decode()}{more}")
        at, turn = 0, 0
        while at < len(body):
            size = pieces[turn % len(pieces)]
            hashed.add(body[at : at + size])
            at, turn = at + size, turn + 1
        digests.add(asyncio.run(hashed.digest()))
    assert len(digests) == 1
