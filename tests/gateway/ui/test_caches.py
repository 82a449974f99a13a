"""What the caches' page shows: what is kept, how often it was found, what made room."""

import asyncio

from lego_serve.gateway.ui.caches import _together
from tests.support.gateway.client import mask_of
from tests.support.ui.lively import png

URL = "/v1/images/generations"
BODY = {"prompt": "a secret", "num_inference_steps": 4, "seed": 3}


async def test_caches_tell_what_is_kept_and_found(looked_at) -> None:
    """By kind and model, with each replica's part."""
    await looked_at.post(URL, json=BODY)
    data = {row["kind"]: row for row in (await looked_at.get("/v1/admin/caches")).json()["data"]}
    assert (data["prompts"]["hits"], data["prompts"]["misses"]) == (1, 1)
    assert data["templates"]["used"] == sum(each["used"] for each in data["templates"]["replicas"])
    await looked_at.post("/v1/images/edits", data={"prompt": "a"}, files={"image": png(), "mask": mask_of((128, 128))})
    await asyncio.sleep(0.6)
    data = {row["kind"]: row for row in (await looked_at.get("/v1/admin/caches")).json()["data"]}
    assert (data["templates"]["hits"], data["templates"]["misses"]) == (1, 0)


async def test_what_makes_room_is_counted_and_told(looked_at, lively) -> None:
    """Of each kind of thing, and as a decision once somebody has looked."""
    await looked_at.get("/v1/admin/overview")
    lively.evicted = 3
    await asyncio.sleep(0.6)
    await looked_at.get("/v1/admin/overview")
    await asyncio.sleep(0.6)
    caches = (await looked_at.get("/v1/admin/caches")).json()
    [templates] = [row for row in caches["data"] if row["kind"] == "templates"]
    assert templates["evicted"] == 6
    decisions = (await looked_at.get("/v1/admin/decisions?kind=evict")).json()["data"]
    assert len(decisions) == 2
    assert "3 entries of templates made room" in decisions[0]["why"]


def test_comparisons_of_several_gateways_are_one_by_class() -> None:
    """Weighed by how many each has made."""
    one = {"workflow": "e", "class": "small", "quality": "high", "count": 3, "mean": 0.9, "floor": 0.95}
    rows = _together([one, {**one, "count": 1, "mean": 0.98}, {**one, "quality": "careful"}])
    assert [(row["quality"], row["count"], row["mean"]) for row in rows] == [("careful", 3, 0.9), ("high", 4, 0.92)]
