"""/v1/templates/ID/warm: what is primed, for which requests, and who waits for it."""

import asyncio
from typing import Any

import httpx2
import numpy as np
import pytest

from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.gateway.peers import HEADER
from tests.support.gateway.client import Live, error_of, file_of, registered
from tests.support.gateway.wire import leaving, wait_for

URL, EDITS = "/v1/templates", "/v1/images/edits"


async def test_warming_is_an_edit_of_one_token(client, runner) -> None:
    """With the steps, guidance and sampler that are asked for; whoever waits hears how many passes it took."""
    card = await registered(client, pin="true")
    runner.reuse = ReuseStats("high", 8, 8, 1, 48, 8)
    body = {"steps": 8, "guidance": 2.5, "sampler": "dpmpp_2m", "wait": True}
    answer = await client.post(f"{URL}/{card['id']}/warm", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "id": card["id"],
            "object": "template.warming",
            "bytes_predicted": 48 * 100 * 8,
            "status": "done",
            "primed": 8,
        },
    )
    [job] = runner.jobs
    assert job.workflow == "lego-tiny-edit"
    wanted = {"steps": 8, "guidance": 2.5, "sampler": "dpmpp_2m", "strength": 1.0, "n": 1, "width": 128, "height": 96}
    assert {name: job.inputs[name] for name in wanted} == wanted
    edit: Any = job.inputs["edit"]
    assert int(np.count_nonzero(edit.weight)) == 16 * 16
    assert edit.pin


async def test_a_negative_prompt_of_their_own_takes_edits_a_second_priming(client) -> None:
    """As long as there is guidance to need it: its entries have the text's rows, the others do not."""
    card = await registered(client)
    found = {}
    for guidance in (1.0, 4.0):
        body = {"negative_prompt": "blue", "guidance": guidance, "wait": True}
        found[guidance] = (await client.post(f"{URL}/{card['id']}/warm", json=body)).json()["bytes_predicted"]
    assert found == {1.0: 48 * 80 * 20, 4.0: 48 * (80 + 100) * 20}


async def test_warming_in_the_background_is_answered_at_once(client, runner) -> None:
    """202 while it runs, after a registration too; nobody need stay."""
    runner.gate = asyncio.Event()
    card = await registered(client, warm="8")
    answer = await client.post(f"{URL}/{card['id']}/warm")
    assert (answer.status_code, answer.json()["status"]) == (202, "started")
    while len(runner.waiting) < 2:
        await asyncio.sleep(0)
    assert [job.inputs["steps"] for job in runner.waiting] == [8, 20]
    assert runner.jobs[0].tenant == "default"
    refused = await client.post(f"{URL}/{card['id']}/warm")
    assert error_of(refused)[:2] == (429, "over_capacity")
    full = await client.post(URL, files={"image": file_of(8)}, data={"warm": "true"})
    assert error_of(full)[:2] == (429, "over_capacity")
    assert [each["id"] for each in (await client.get(URL)).json()["data"]] == [card["id"]]
    runner.gate.set()
    while runner.waiting:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"steps": 0}, "out_of_range", "steps"),
        ({"steps": 150}, "out_of_range", "steps"),
        ({"steps": "8"}, "invalid_type", "steps"),
        ({"guidance": 21}, "out_of_range", "guidance"),
        ({"sampler": "nope"}, "invalid_value", "sampler"),
        ({"wait": 1}, "invalid_type", "wait"),
        ({"foo": 1}, "unsupported_parameter", "foo"),
    ],
)
async def test_what_cannot_be_warmed_for_is_refused(client, runner, body, code, param) -> None:
    """By name, and no job is made."""
    card = await registered(client)
    answer = await client.post(f"{URL}/{card['id']}/warm", json=body)
    assert error_of(answer) == (400, code, param)
    assert runner.jobs == []


async def test_removing_a_template_ends_its_warming(client, runner) -> None:
    """The edit in the background and the one that a client waits for, and no other template's."""
    runner.gate = asyncio.Event()
    card, other = await registered(client), await registered(client, 8, warm="4")
    waiting = asyncio.ensure_future(client.post(f"{URL}/{card['id']}/warm", json={"wait": True}))
    while len(runner.waiting) < 2:
        await asyncio.sleep(0.01)
    assert (await client.delete(f"{URL}/{card['id']}")).status_code == 204
    assert error_of(await waiting)[:2] == (409, "job_cancelled")
    assert [job.inputs["steps"] for job in runner.waiting] == [4]
    runner.gate.set()
    while runner.waiting:
        await asyncio.sleep(0)
    assert (await client.get(f"{URL}/{other['id']}")).status_code == 200
    assert "lego_serve_requests_in_flight 0.0" in (await client.get("/metrics")).text


async def test_a_gateway_that_removes_a_template_for_another_ends_its_own_warming_only(client, runner) -> None:
    """The template itself stays: the gateway that asks removes it."""
    runner.gate = asyncio.Event()
    card = await registered(client, warm="4")
    while not runner.waiting:
        await asyncio.sleep(0.01)
    answer = await client.delete(f"{URL}/{card['id']}", headers={HEADER: "1"})
    assert (answer.status_code, answer.json()["cancelled"]) == (200, 1)
    while runner.waiting:
        await asyncio.sleep(0)
    assert runner.cancelled == [runner.jobs[0].id]
    assert (await client.get(f"{URL}/{card['id']}")).status_code == 200
    again = await client.delete(f"{URL}/{card['id']}", headers={HEADER: "1"})
    assert again.json()["cancelled"] == 0


async def test_warming_ends_with_the_gateway(client, app, runner) -> None:
    """Nothing goes on behind its back."""
    runner.gate = asyncio.Event()
    async with app.router.lifespan_context(app):
        await registered(client, warm="4")
        while not runner.waiting:
            await asyncio.sleep(0.01)
    assert runner.cancelled == [runner.jobs[0].id]


def test_warming_that_a_client_waits_for_ends_when_it_leaves(app, runner) -> None:
    """As any request does."""
    with Live(app) as url:
        answer = httpx2.post(f"{url}{URL}", files={"image": file_of()}, timeout=60)
        runner.gate = asyncio.Event()
        with leaving(url, f"{URL}/{answer.json()['id']}/warm", {"wait": True}):
            assert wait_for(lambda: runner.waiting)
        assert wait_for(lambda: runner.cancelled)
        assert runner.cancelled == [runner.jobs[0].id]
        assert wait_for(lambda: "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{url}/metrics", timeout=60).text)
