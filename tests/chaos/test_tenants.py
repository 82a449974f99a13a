"""Forty clients of one tenant beside one of another, which gets its part and hardly waits longer than alone."""

import asyncio
from collections.abc import Iterator
from hashlib import sha256

import pytest

from tests.support.chaos.figures import note
from tests.support.chaos.load import drive, percentile, seconds_of
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import CRASHES, Server, running

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.alone]
SECONDS = 25.0
BODY = {"prompt": PROMPT, "size": "128x128", "num_inference_steps": 20}
KEYS = {tenant: f"key-of-{tenant}" for tenant in ("alpha", "beta")}
PART = 0.45  # of the half that is its own


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two tenants of equal weight."""
    keys = "".join(
        f"  - {{sha256: {sha256(key.encode()).hexdigest()}, tenant: {tenant}}}\n" for tenant, key in KEYS.items()
    )
    text = CRASHES.replace("max_pending_jobs: 24", "max_pending_jobs: 256") + "keys:\n" + keys
    with running(tmp_path_factory.mktemp("tenants"), gateways=1, text=text) as server:
        yield server


def of(tenant: str) -> dict[str, str]:
    """The header with a tenant's key."""
    return {"authorization": f"Bearer {KEYS[tenant]}"}


async def test_one_client_beside_forty_of_another_tenant_has_its_part(tenants: Server) -> None:
    """However many the other has; both are of equal weight."""
    alone = seconds_of(await drive(tenants.url, 1, SECONDS, BODY, of("beta")), 200)
    many, one = await asyncio.gather(
        drive(tenants.url, 40, SECONDS, BODY, of("alpha")), drive(tenants.url, 1, SECONDS, BODY, of("beta"))
    )
    alphas, betas = seconds_of(many, 200), seconds_of(one, 200)
    assert len(betas) == len(one), "beta was refused"
    part = len(betas) / (0.5 * (len(alphas) + len(betas)))
    late = percentile(betas, 0.5) / percentile(alone, 0.5)
    note("tenants", "40 clients beside 1", part_of_its_half=part, times_as_long_as_alone=late, answers=len(betas))
    assert part >= PART
