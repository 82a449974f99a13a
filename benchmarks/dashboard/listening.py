"""How late events come, and what watching costs the gateways."""

import asyncio
import json
import time
from dataclasses import dataclass, field

import httpx2

from benchmarks.dashboard.gateways import Gateways
from lego_serve.core.jobs.series import percentile

PATH = "/v1/admin/events"
GENERATIONS = "/v1/images/generations"


@dataclass
class Heard:
    """What listeners heard: the seconds by which decisions were late, and bytes."""

    late_s: list[float] = field(default_factory=list)
    bytes: int = 0

    @property
    def p50(self) -> float:
        """The middle delay."""
        return percentile(self.late_s, 0.5) or 0.0

    @property
    def p99(self) -> float:
        """The delay that one of a hundred exceeds."""
        return percentile(self.late_s, 0.99) or 0.0


async def listen(url: str, heard: Heard, began: float) -> None:
    """Listen until cancelled; what was decided before does not count."""
    async with httpx2.AsyncClient(timeout=None) as client, client.stream("GET", url + PATH) as answer:
        name = ""
        async for line in answer.aiter_lines():
            heard.bytes += len(line) + 1
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: ") and name == "patch" and '"decisions"' in line:
                now = time.time()
                for each in json.loads(line[6:]).get("decisions", {}).values():
                    if each and each.get("at", 0) > began:
                        heard.late_s.append(now - each["at"])


async def delays(gateways: Gateways, listeners: int, seconds: float) -> Heard:
    """Have a request paused and resumed while so many listen; the gateway that hears the order is any of them."""
    heard, began = Heard(), time.time() + 2
    tasks = [asyncio.create_task(listen(gateways.url, heard, began)) for _ in range(listeners)]
    async with httpx2.AsyncClient(base_url=gateways.url, timeout=60) as client:
        body = {"prompt": "a", "num_inference_steps": 100}
        work = [asyncio.create_task(_ask_on(client, body | {"seed": i})) for i in range(3)]
        await asyncio.sleep(2)
        while time.time() < began + seconds:
            jobs = (await client.get("/v1/admin/jobs")).json()["data"]
            if jobs:
                verb = "resume" if jobs[0]["paused"] else "pause"
                await client.post(f"/v1/admin/jobs/{jobs[0]['id']}/{verb}")
            await asyncio.sleep(0.37)
        await asyncio.sleep(0.6)
        for task in (*tasks, *work):
            task.cancel()
        await asyncio.gather(*tasks, *work, return_exceptions=True)
    if not heard.late_s:
        raise RuntimeError("nobody heard a decision")
    return heard


async def cost(gateways: Gateways, seconds: float, listeners: int = 1, body: dict[str, object] | None = None) -> float:
    """Return the share of a processor that gateways take more while somebody watches, with the same work beside."""
    async with httpx2.AsyncClient(base_url=gateways.url, timeout=60) as client:
        work = [] if body is None else [asyncio.create_task(_ask_on(client, body))]
        await asyncio.sleep(1)
        before = await _taken(gateways, seconds)
        heard = Heard()
        tasks = [asyncio.create_task(listen(gateways.url, heard, 0.0)) for _ in range(listeners)]
        await asyncio.sleep(2)
        watched = await _taken(gateways, seconds)
        for task in (*tasks, *work):
            task.cancel()
        await asyncio.gather(*tasks, *work, return_exceptions=True)
    return (watched - before) / seconds


async def _taken(gateways: Gateways, seconds: float) -> float:
    before = gateways.processor_s
    await asyncio.sleep(seconds)
    return gateways.processor_s - before


async def _ask_on(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    while True:
        await client.post(GENERATIONS, json=body)
