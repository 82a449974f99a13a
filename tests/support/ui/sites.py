"""Sites for tests in a browser, and what has happened there before."""

from dataclasses import dataclass

import httpx2

from tests.support.gateway.client import Live
from tests.support.ui.lively import LivelyRunner

DESK, PHONE = (1280, 800), (390, 844)


@dataclass
class Site:
    """A gateway's address, and the runner behind it."""

    url: str
    runner: LivelyRunner
    live: Live


def fill_history(site: Site) -> str:
    """Have requests of several kinds end, and a replica be lost; return the id of one request."""
    wanted = [{}, {"n": 3}, {"lora": [{"name": "a"}]}, {"num_inference_steps": 30}, {"model": "nope"}]
    with httpx2.Client(base_url=site.url, timeout=30) as client:
        for seed, body in enumerate(wanted):
            client.post("/v1/images/generations", json={"prompt": "a", "seed": seed, **body})
        client.get("/v1/admin/overview")
        site.runner.lose(site.runner.backbones[0])
        rows = client.get("/v1/admin/requests", params={"outcome": "ok"}).json()["data"]
    return str(rows[0]["id"])
