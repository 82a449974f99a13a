"""The tier of a durable job that may be lowered: settled by its first attempt, kept by all others."""

from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.tiers.book import TierBook, TierChoice, TierUse
from lego_serve.errors import NodeUnavailable
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.durable import Cluster, until, wait_until
from tests.support.gateway.runner import FakeRunner
from tests.support.gateway.tiers import BOOK

IMAGES, ASYNC = "/v1/images/generations", {"prefer": "respond-async"}
QUIET, CROWD = 0, 3  # of five places
LOWERED, AS_ASKED = TierChoice("fast", 0.25, "exact"), TierChoice()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One server's store; its model has two tiers, and three jobs are a crowd."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", max_pending_jobs=5, tiers={"lego-tiny": BOOK}))


def away(in_flight: int) -> FakeRunner:
    """A runner of so many jobs whose nodes cannot be reached."""
    runner = FakeRunner()
    runner.error, runner.in_flight = NodeUnavailable("Not now."), in_flight
    runner.error.retry_after_s = 0.05
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=TierUse("fast", 5, 20))}
    return runner


@pytest.mark.parametrize(("first", "later", "tier"), [(CROWD, QUIET, LOWERED), (QUIET, CROWD, AS_ASKED)])
async def test_a_later_attempt_draws_the_image_that_the_first_began(
    cluster: Cluster, first: int, later: int, tier: TierChoice
) -> None:
    """Whether there is a crowd by then or none: its checkpoint is of that tier, and the answer says so."""
    runner = away(first)
    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json={"prompt": "a", "tier_floor": "fast"}, headers=ASYNC)).json()
        await wait_until(lambda: len(runner.jobs) == 1)
        runner.in_flight = later
        await wait_until(lambda: len(runner.jobs) >= 3)
        runner.error = None
        ended = await until(gateway.client, job["id"])
        assert ended["status"] == "completed"
        assert {each.tier.tier for each in runner.jobs} == {tier.tier}
        assert {each.inputs["tier"] for each in runner.jobs} == {tier.tier}
        result = (await gateway.client.get(f"/v1/jobs/{job['id']}/result")).json()
        assert result["lego"]["tier"].get("lowered_from") == tier.lowered_from


async def test_another_gateway_keeps_the_tier_too(cluster: Cluster) -> None:
    """It is written where all of them read it."""
    busy, idle = away(CROWD), FakeRunner()
    async with cluster.gateway(busy) as gateway:
        job = (await gateway.client.post(IMAGES, json={"prompt": "a", "tier_floor": "fast"}, headers=ASYNC)).json()
        await wait_until(lambda: bool(busy.jobs))
    async with cluster.gateway(idle) as gateway:
        await until(gateway.client, job["id"])
    assert [each.tier for each in idle.jobs] == [LOWERED]


async def test_a_tier_that_is_not_tuned_any_more_is_chosen_anew(cluster: Cluster) -> None:
    """As after a redeploy with another file of tiers."""
    busy, idle = away(CROWD), FakeRunner()
    async with cluster.gateway(busy) as gateway:
        job = (await gateway.client.post(IMAGES, json={"prompt": "a", "tier_floor": "fast"}, headers=ASYNC)).json()
        await wait_until(lambda: bool(busy.jobs))
    cluster.settings = replace(cluster.settings, tiers={"lego-tiny": TierBook()})
    async with cluster.gateway(idle) as gateway:
        ended = await until(gateway.client, job["id"])
    assert ended["status"] == "completed"
    assert [each.tier for each in idle.jobs] == [AS_ASKED]
