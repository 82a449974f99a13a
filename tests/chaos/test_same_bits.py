"""The same request has the same bits however often it is made, and whatever else is made at the same time."""

import asyncio
import os
import random
from collections.abc import Mapping

import httpx2
import pytest

from tests.support.chaos.books import check_books
from tests.support.chaos.figures import note
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import Server, wait_for_two

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
ROUNDS = int(os.environ.get("LEGO_CHAOS_ROUNDS", "20"))
AT_ONCE = 8
REQUESTS: tuple[Mapping[str, object], ...] = tuple(
    {"prompt": PROMPT, "seed": seed, "size": size, "num_inference_steps": steps, "guidance_scale": guidance}
    for seed, (size, steps, guidance) in enumerate(
        [("128x128", 28, 4.0), ("96x96", 10, 1.0), ("128x96", 20, 4.0), ("160x96", 28, 7.0), ("96x128", 5, 4.0)] * 2
    )
)


async def image_of(http: httpx2.AsyncClient, body: Mapping[str, object]) -> str:
    """The file of the only image of a request that must succeed."""
    answer = await http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"][0]["b64_json"])


async def test_an_image_has_its_bits_among_any_others(crashes: Server) -> None:
    """Made alone first, then again and again among others that are drawn at random, on either replica."""
    wait_for_two(crashes)
    rng, different = random.Random(11), 0
    async with httpx2.AsyncClient(base_url=crashes.url, timeout=120) as http:
        alone = [await image_of(http, body) for body in REQUESTS]
        for _ in range(ROUNDS):
            drawn = rng.choices(range(len(REQUESTS)), k=AT_ONCE)
            made = await asyncio.gather(*(image_of(http, REQUESTS[index]) for index in drawn))
            different += sum(alone[index] != image for index, image in zip(drawn, made, strict=True))
    note("bits", "images among others", rounds=ROUNDS, images=ROUNDS * AT_ONCE, different=different)
    assert different == 0
    check_books(crashes.url)
