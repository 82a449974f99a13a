"""The routes of the dashboard: lists, one request whole, and whose they are."""

import asyncio
from dataclasses import replace
from hashlib import sha256

import httpx2
import pytest

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.routes.admin import ReplicaCard
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of
from tests.support.ui.lively import LivelyRunner

BODY = {"prompt": "a secret", "num_inference_steps": 4, "seed": 3}
URL = "/v1/images/generations"
ADMIN = ("/overview", "/series", "/caches", "/decisions", "/errors", "/workflows/lego-tiny", "/events")


async def rows_of(client: httpx2.AsyncClient, **query: object) -> list[dict[str, object]]:
    """The list of requests."""
    answer = await client.get("/v1/admin/requests", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, object]] = answer.json()["data"]
    return data


async def test_an_ended_request_is_a_row_and_whole_with_its_parts(looked_at) -> None:
    """Its nodes add up to its total, its steps lie within it, and no word of its prompt is anywhere."""
    await looked_at.post(URL, json=BODY)
    [row] = await rows_of(looked_at)
    assert (row["state"], row["outcome"], row["step"], row["steps"]) == ("ended", "ok", 4, 4)
    answer = await looked_at.get(f"/v1/admin/requests/{row['id']}")
    whole = answer.json()
    assert "secret" not in answer.text
    assert whole["critical"] == ["negative", "latents", "image"]
    assert abs(whole["spans"][-1]["to_s"] - whole["total_s"]) < 0.005
    latents = next(span for span in whole["spans"] if span["kind"] == "denoise")
    assert len(latents["steps"]) == 4
    for at_s, took_s, lanes in latents["steps"]:
        assert latents["from_s"] <= at_s
        assert at_s + took_s <= latents["to_s"] + 0.005
        assert lanes >= 1
    assert whole["story"][-1][1] == "finished"


async def test_a_request_in_flight_tells_its_step_and_replica(looked_at, lively) -> None:
    """As they are now; paused ones say so."""
    lively.step_s = 0.02
    running = asyncio.ensure_future(looked_at.post(URL, json=BODY | {"num_inference_steps": 50}))
    while not lively.journal.history.live or lively.journal.history.live[0].step < 2:
        await asyncio.sleep(0.01)
    [row] = await rows_of(looked_at, state="running")
    assert row["steps"] == 50
    assert row["replica"] in lively.backbones
    assert row["eta_s"] is not None
    await looked_at.post(f"/v1/admin/jobs/{row['id']}/pause")
    await asyncio.sleep(0.6)  # what was seen a moment ago is not asked for again
    assert [each["flags"] for each in await rows_of(looked_at, state="paused")] == [["paused"]]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_request_that_waits_is_expected_when_it_was_as_it_was_accepted(looked_at, lively, monkeypatch) -> None:
    """Until its steps tell more; nothing is shown where nothing was known."""
    lively.step_s, known = 60.0, [None, lively.now() + 500.0]
    monkeypatch.setattr(Admission, "expected_at", property(lambda _: known[len(lively.journal.history.live) - 1]))
    running = [asyncio.ensure_future(looked_at.post(URL, json=BODY)) for _ in known]
    while len(lively.journal.history.live) < len(running):
        await asyncio.sleep(0.01)
    etas_s = [row["eta_s"] for row in await rows_of(looked_at, state="waiting")]
    assert etas_s.count(None) == 1
    assert 0.0 < next(eta_s for eta_s in etas_s if eta_s is not None) < 500.0
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_lost_replica_is_told_and_where_its_images_went(looked_at, lively) -> None:
    """In the overview, among the decisions, and in the request's own notes."""
    lively.step_s = 0.02
    await looked_at.get("/v1/admin/overview")
    running = asyncio.ensure_future(looked_at.post(URL, json=BODY | {"num_inference_steps": 30}))
    while not lively.journal.history.live or lively.journal.history.live[0].step < 3:
        await asyncio.sleep(0.01)
    lost = lively.journal.history.live[0].replica
    assert lost is not None
    lively.lose(lost)
    assert (await running).status_code == 200
    await asyncio.sleep(0.5)
    overview = (await looked_at.get("/v1/admin/overview")).json()
    assert [alert["id"] for alert in overview["alerts"]] == [f"lost-{lost}"]
    [backbone] = [node for node in overview["models"][0]["nodes"] if node["component"] == "backbone"]
    assert (backbone["up"], backbone["lost"]) == (1, 1)
    [decision] = (await looked_at.get("/v1/admin/decisions", params={"kind": "lost"})).json()["data"]
    assert (decision["subject"], "goes on elsewhere" in decision["why"]) == (lost, True)
    whole = (await looked_at.get(f"/v1/admin/requests/{decision['job']}")).json()
    assert "resumed" in whole["flags"]
    notes = [note for span in whole["spans"] for note in span["notes"]]
    assert any(lost in words and level == "bad" for _, words, level in notes)


async def test_lists_are_filtered_sorted_and_paged(looked_at) -> None:
    """No list is ever sent whole without being asked for in pages."""
    for seed in range(5):
        await looked_at.post(URL, json=BODY | {"seed": seed, "lora": [{"name": "a"}]} if seed == 2 else BODY)
    assert len(await rows_of(looked_at)) == 5
    assert [row["workflow"] for row in await rows_of(looked_at, q="ADAPTERS tiny")] == ["lego-tiny-lora"]
    assert await rows_of(looked_at, over_s=60) == []
    ages = [row["age_s"] for row in await rows_of(looked_at, sort="-age_s")]
    assert ages == sorted(ages, reverse=True)  # type: ignore[type-var]
    seen, cursor = [], "0"
    while cursor:
        page = (await looked_at.get("/v1/admin/requests", params={"limit": 2, "cursor": cursor})).json()
        seen += [row["id"] for row in page["data"]]
        cursor = page["next"]
    assert len(set(seen)) == page["total"] == 5


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=201", "limit"), ("cursor=x", "cursor"), ("sort=tenant", "sort")]
)
async def test_wrong_queries_are_refused_by_name(looked_at, query: str, param: str) -> None:
    """400, and the field that is wrong."""
    status, _, named = error_of(await looked_at.get(f"/v1/admin/requests?{query}"))
    assert (status, named) == (400, param)


async def test_a_window_is_five_minutes_or_an_hour(looked_at) -> None:
    """Of points of two seconds, or of ten."""
    lengths = []
    for window in (300, 3600):
        series = (await looked_at.get("/v1/admin/series", params={"window": window})).json()
        lengths.append((series["step_s"], len(series["series"]["p95"])))
    assert lengths == [(2, 150), (10, 360)]
    assert error_of(await looked_at.get("/v1/admin/overview?window=7"))[0] == 400


async def test_errors_are_told_by_code_and_refusals_too(looked_at) -> None:
    """Those of jobs with the node, those without a job by themselves."""
    await looked_at.post(URL, json=BODY | {"model": "nope"})
    data = (await looked_at.get("/v1/admin/errors")).json()["data"]
    assert [(each["code"], each["node"], each["count"]) for each in data] == [("model_not_found", "", 1)]


async def test_a_workflow_is_a_graph_with_times(looked_at) -> None:
    """Its nodes and edges, and what its nodes took lately."""
    await looked_at.post(URL, json=BODY)
    graph = (await looked_at.get("/v1/admin/workflows/lego-tiny")).json()
    assert {node["name"] for node in graph["nodes"]} == {"cond", "negative", "latents", "image"}
    assert {(edge["from"], edge["to"]) for edge in graph["edges"]} >= {("cond", "latents"), ("latents", "image")}
    assert graph["times"]["latents"]["count"] == 1
    assert error_of(await looked_at.get("/v1/admin/workflows/nope"))[1] == "model_not_found"


async def test_replicas_of_every_node_are_listed_where_all_are_wanted(looked_at) -> None:
    """The old list stays as it is."""
    old = (await looked_at.get("/v1/admin/replicas")).json()["data"]
    assert old == [{"id": "r1", "object": "replica", "node": "lego-tiny.backbone"}]
    every = (await looked_at.get("/v1/admin/replicas?all=true")).json()["data"]
    assert {card["node"].split(".")[1] for card in every} == {"backbone", "text_encoder", "vae", "adapters"}
    for card in every:
        assert card["node"] == f"{card['model']}.{card['component']}"
        assert (card["state"], card["is_shared"], card["machine"]) == ("up", False, card["load"]["machine"])
    rooms = {card["component"]: card["load"]["room"] for card in every}
    assert rooms == {"backbone": 8, "text_encoder": 4, "vae": 1, "adapters": 0}
    document = (await looked_at.get("/openapi.json")).json()
    said = document["paths"]["/v1/admin/replicas"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert said["properties"]["data"]["items"] == {"$ref": "#/components/schemas/ReplicaCard"}
    load = document["components"]["schemas"]["ReplicaLoad"]["properties"]
    assert load["room"]["type"] == "integer"
    for card in every:
        assert set(card["load"]) == set(load)
        ReplicaCard.model_validate(card)


async def test_users_see_their_own_requests_and_nothing_else() -> None:
    """Another tenant's are not there for them, not even by their id; operators see all."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, name == "ops") for name in ("ops", "shop", "press"))
    runner = LivelyRunner(step_s=0.001)
    app = create_app(runner, runner, GatewaySettings("lego-tiny", keys), Metrics())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for name in ("shop", "press"):
            await client.post(URL, json=BODY, headers={"authorization": f"Bearer {name}"})
        client.headers["authorization"] = "Bearer ops"
        rows = {str(row["tenant"]): row for row in await rows_of(client)}
        client.headers["authorization"] = "Bearer shop"
        assert [row["tenant"] for row in await rows_of(client)] == ["shop"]
        assert [row["tenant"] for row in await rows_of(client, tenant="press")] == ["shop"]
        assert (await client.get(f"/v1/admin/requests/{rows['shop']['id']}")).status_code == 200
        assert error_of(await client.get(f"/v1/admin/requests/{rows['press']['id']}"))[0] == 404
        for path in ADMIN:
            assert error_of(await client.get(f"/v1/admin{path}"))[:2] == (403, "insufficient_scope")
        del client.headers["authorization"]
        assert (await client.get("/v1/admin/requests")).status_code == 401
        assert (await client.get("/v1/ui")).json()["keys"] is True


async def test_only_gateways_ask_each_other_for_their_part(tmp_path) -> None:
    """It has the requests of all tenants: who writes the mark of a gateway into a request of their own gets nothing."""
    keys = (ApiKey(sha256(b"shop").hexdigest(), "shop", is_admin=False),)
    runner, peers = LivelyRunner(), Peers(tmp_path, tmp_path / "own.sock")
    app = create_app(runner, runner, GatewaySettings("lego-tiny", keys), Metrics(), peers)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
        for headers in ({"x-lego-peer": "1"}, {"x-lego-peer": "1", "x-lego-peer-token": "guessed"}):
            answer = await client.get("/v1/admin/part", headers=headers | {"authorization": "Bearer shop"})
            assert answer.status_code == 403
        known = {"x-lego-peer": "1", "x-lego-peer-token": peers.token()}
        assert (await client.get("/v1/admin/part", headers=known)).status_code == 200
        assert (await client.get("/v1/admin/part", headers={"x-lego-peer-token": peers.token()})).status_code == 403


async def test_replicas_are_pinned_and_the_reason_is_told(looked_at, lively) -> None:
    """What a node is to have stands beside what it has; unpinned, its configuration holds again."""
    path = "/v1/admin/nodes/lego-tiny.backbone/replicas"
    answer = await looked_at.put(path, json={"min": 3, "max": 3})
    assert (answer.status_code, answer.json()["until"]) == (202, "restart")
    assert lively.pins == [("lego-tiny.backbone", ReplicaBounds(3, 3))]
    overview = (await looked_at.get("/v1/admin/overview")).json()
    [backbone] = [node for node in overview["models"][0]["nodes"] if node["component"] == "backbone"]
    told = {name: backbone[name] for name in ("target", "min", "max", "is_pinned", "up", "starting")}
    assert told == {"target": 3, "min": 3, "max": 3, "is_pinned": True, "up": 2, "starting": 1}
    decisions = (await looked_at.get("/v1/admin/decisions")).json()["data"]
    assert {each["kind"] for each in decisions} == {"pin", "scale"}
    [scaled] = [each for each in decisions if each["kind"] == "scale"]
    assert (scaled["from"], scaled["to"], scaled["by"]) == (2, 3, "operator")
    [card] = (await looked_at.get("/v1/admin/nodes")).json()["data"]
    assert [card[name] for name in ("target", "min", "max", "pinned", "why")] == [3, 3, 3, True, scaled["why"]]
    assert (await looked_at.delete(path)).status_code == 202
    assert lively.pins[-1] == ("lego-tiny.backbone", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [({"min": 3, "max": 2}, "max"), ({"min": 0, "max": 1}, "min"), ({"min": 1}, "max"), ({"min": 1, "max": 65}, "max")],
)
async def test_wrong_pins_are_refused_by_name(looked_at, lively, body: dict[str, int], param: str) -> None:
    """And pin nothing."""
    answer = await looked_at.put("/v1/admin/nodes/lego-tiny.backbone/replicas", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    missing = await looked_at.put("/v1/admin/nodes/lego-tiny.nope/replicas", json={"min": 1, "max": 1})
    assert error_of(missing)[:2] == (404, "node_not_found")
    assert lively.pins == []


async def test_a_target_is_the_callers_the_workflows_or_learned(lively, settings) -> None:
    """In this order, and the row says whose; the configuration's word replaces the workflow's."""
    lively.more = {"lego-tiny": replace(lively.workflows["lego-tiny"], slo_s=7.0)}
    for configured, expected in (({}, 7.0), ({"lego-tiny": 3.0}, 3.0)):
        app = create_app(lively, lively, replace(settings, slo_s=configured), Metrics())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as client:
            await client.post(URL, json=BODY)
            await client.post(URL, json=BODY | {"deadline_ms": 9000})
            by_deadline, by_slo, *_ = await rows_of(client)
            assert (by_slo["target_s"], by_slo["target_by"]) == (expected, "slo")
            assert (by_deadline["target_s"], by_deadline["target_by"]) == (9.0, "deadline")
            overview = (await client.get("/v1/admin/overview")).json()
            assert overview["target"]["median_s"] is not None
            assert (await client.get("/v1/admin/workflows/lego-tiny")).json()["target"]["slo_s"] == expected


async def test_edges_have_what_goes_along_them(looked_at) -> None:
    """The bytes of what is made, and the time on the way."""
    await looked_at.post(URL, json=BODY)
    graph = (await looked_at.get("/v1/admin/workflows/lego-tiny")).json()
    assert graph["times"]["latents"]["count"] == 1
    latents = next(edge for edge in graph["edges"] if edge["from"] == "latents")
    assert latents["bytes"] == 16 * 16 * 16 * 4
    assert latents["p50_s"] >= 0


async def test_a_models_series_are_of_its_own_requests(looked_at) -> None:
    """Named ones alone; of a model that has none they are empty."""
    await looked_at.post(URL, json=BODY)
    await asyncio.sleep(2.1)  # the bin under way is left out
    for model, count in (("lego-tiny", 1), ("other", 0)):
        query = {"model": model, "names": "ok,images"}
        series = (await looked_at.get("/v1/admin/series", params=query)).json()["series"]
        assert set(series) == {"ok", "images"}
        assert sum(series["ok"]) * 2 == count
    assert error_of(await looked_at.get("/v1/admin/series?names=nope"))[2] == "names"


async def test_a_replica_that_was_to_go_is_stopped_and_not_lost(looked_at, lively) -> None:
    """After a drain, or where fewer are wanted; nobody is alarmed."""
    await looked_at.get("/v1/admin/overview")
    lively.journal.decide("drain", "c01d", "an operator asked", lively.now(), by="operator")
    lively.lose("c01d")
    await asyncio.sleep(0.6)
    overview = (await looked_at.get("/v1/admin/overview")).json()
    [backbone] = [node for node in overview["models"][0]["nodes"] if node["component"] == "backbone"]
    assert (backbone["up"], backbone["lost"]) == (1, 0)
    assert overview["alerts"] == []
