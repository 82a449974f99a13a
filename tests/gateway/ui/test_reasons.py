"""Why things went as they did: replicas that go, and jobs that wait between two steps."""

import asyncio

URL = "/v1/images/generations"
BODY = {"prompt": "a secret", "num_inference_steps": 4, "seed": 3}


async def test_a_replica_that_goes_idle_is_known_by_its_node(looked_at, lively) -> None:
    """So that its model's page says why it has fewer, though no request was on it."""
    seq = (await looked_at.get("/v1/admin/overview")).json()["seq"]
    lively.lose("c01d")
    await asyncio.sleep(0.6)
    [lost] = (await looked_at.get("/v1/admin/decisions", params={"kind": "lost"})).json()["data"]
    assert (lost["subject"], lost["node"]) == ("c01d", "lego-tiny.backbone")
    assert (await looked_at.get("/v1/admin/overview")).json()["seq"] > seq


async def test_a_pause_is_not_told_as_giving_way(looked_at, lively) -> None:
    """The longest of each is noted in its own words."""
    lively.step_s = 0.02
    lively.clock = asyncio.get_running_loop().time  # a test that is held up is no job that gives way
    running = asyncio.ensure_future(looked_at.post(URL, json=BODY | {"num_inference_steps": 12}))
    while not lively.journal.history.live or lively.journal.history.live[0].step < 2:
        await asyncio.sleep(0.01)
    [record] = lively.journal.history.live
    await looked_at.post(f"/v1/admin/jobs/{record.id}/pause")
    await asyncio.sleep(0.5)
    await looked_at.post(f"/v1/admin/jobs/{record.id}/resume")
    assert (await running).status_code == 200
    [ended] = lively.journal.history.ended()
    [(since, until)] = ended.pauses
    assert until is not None
    assert until - since > 0.4
    whole = (await looked_at.get(f"/v1/admin/requests/{record.id}")).json()
    words = [words for span in whole["spans"] for _, words, _ in span["notes"]]
    assert len([each for each in words if each.startswith("paused for")]) == 1
    assert not any(each.startswith("gave way to others for 0.4") for each in words)
