"""Templates of all tenants, for operators: who has which, where it is kept, and making it ready or letting go of it."""

import asyncio
from dataclasses import replace
from hashlib import sha256

import httpx2
import pytest

from lego_serve.core.nodes.requests import ForgetTemplate
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of
from tests.support.ui.lively import png

KEYS = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, name == "ops") for name in ("ops", "shop", "press"))
OPS, SHOP, PRESS = ({"authorization": f"Bearer {name}"} for name in ("ops", "shop", "press"))
URL = "/v1/admin/templates"


@pytest.fixture
async def stocked(runner, settings, tmp_path):
    """A gateway in which two tenants have registered an image each."""
    stored = TemplateSettings(tmp_path / "templates", 9, 10_000_000, {"lego-tiny": 10_000_000})
    app = create_app(runner, runner, replace(settings, keys=KEYS, templates=stored), Metrics())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for key, seed in ((SHOP, 1), (PRESS, 2)):
            answer = await client.post("/v1/templates", headers=key, files={"image": png(128, 128, seed)})
            assert answer.status_code == 201, answer.text
        yield client


async def test_an_operator_sees_those_of_all_tenants(stocked) -> None:
    """In pages, or of one, each with the replicas that keep something of it; its image too."""
    answer = (await stocked.get(URL, headers=OPS)).json()
    assert [card["tenant"] for card in answer["data"]] == ["press", "shop"]
    assert answer["data"][0]["replicas"] == [{"id": "r2", "bytes": 5000}]
    page = (await stocked.get(f"{URL}?limit=1&cursor=1", headers=OPS)).json()
    assert ([card["tenant"] for card in page["data"]], page["total"], page["next"]) == (["shop"], 2, None)
    [card] = (await stocked.get(f"{URL}?tenant=shop", headers=OPS)).json()["data"]
    image = await stocked.get(f"{URL}/shop/{card['id']}/image", headers=OPS)
    assert (image.headers["content-type"], image.content[:4]) == ("image/png", b"\x89PNG")
    assert error_of(await stocked.get(f"{URL}/press/{card['id']}/image", headers=OPS))[0] == 404


@pytest.mark.parametrize("path", ["", "/shop/tmpl_x/image", "/shop/tmpl_x/warm", "/shop/tmpl_x/activations"])
async def test_nobody_else_sees_any(stocked, path: str) -> None:
    """A user's key is refused, also for its own."""
    method = {"warm": "POST", "activations": "DELETE"}.get(path.rpartition("/")[2], "GET")
    assert error_of(await stocked.request(method, URL + path, headers=SHOP))[:2] == (403, "insufficient_scope")


async def test_one_is_warmed_as_its_tenants_work(stocked, runner) -> None:
    """Its tenant pays for it, and the decision is noted."""
    [card] = (await stocked.get(f"{URL}?tenant=shop", headers=OPS)).json()["data"]
    answer = await stocked.post(f"{URL}/shop/{card['id']}/warm", headers=OPS)
    assert answer.status_code == 202
    while not runner.jobs:
        await asyncio.sleep(0.01)
    assert runner.jobs[0].tenant == "shop"
    assert [each.kind for each in runner.journal.decisions()] == ["warm"]


async def test_replicas_let_go_of_one_and_it_stays_registered(stocked, runner) -> None:
    """What they freed is told."""
    [card] = (await stocked.get(f"{URL}?tenant=press", headers=OPS)).json()["data"]
    assert (await stocked.delete(f"{URL}/press/{card['id']}/activations", headers=OPS)).status_code == 204
    assert isinstance(runner.template_requests[-1], ForgetTemplate)
    [decision] = runner.journal.decisions()
    assert (decision.kind, decision.by) == ("evict", "operator")
    assert (await stocked.get(f"{URL}?tenant=press", headers=OPS)).json()["total"] == 1
