"""GET /v1/admin/jobs/ID: how a job stands and what happened to it."""

import asyncio

URL = "/v1/images/generations"
STORY = ("0.000000 submitted to lego-tiny", "0.000000 dispatch cond")


async def test_a_job_in_flight_shows_its_state_and_story(client, runner) -> None:
    """The card of the list, a status and the story line by line."""
    runner.gate = asyncio.Event()
    runner.story = lambda job_id: STORY if job_id == "job_abc" else ()
    request = asyncio.ensure_future(client.post(URL, json={"prompt": "a"}, headers={"x-request-id": "abc"}))
    while not runner.waiting:
        await asyncio.sleep(0)
    answer = await client.get("/v1/admin/jobs/job_abc")
    [card] = (await client.get("/v1/admin/jobs")).json()["data"]
    assert (answer.status_code, answer.json()) == (200, card | {"status": "running", "story": list(STORY)})
    runner.gate.set()
    await request


async def test_a_job_that_has_ended_shows_its_story(client, runner) -> None:
    """As long as the runner remembers it."""
    runner.story = lambda job_id: STORY
    answer = await client.get("/v1/admin/jobs/job_abc")
    assert answer.json() == {"id": "job_abc", "object": "job", "status": "ended", "story": list(STORY)}


async def test_an_unknown_job_is_404(client, runner) -> None:
    """By code, as for the other routes of jobs."""
    runner.story = lambda job_id: ()
    answer = await client.get("/v1/admin/jobs/job_other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
