"""A dispatcher that dies, hangs and returns, and gateways that ask it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from lego_serve.core.jobs.job import Job
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, Expectation, GatewayReport, JobOffer
from lego_serve.core.workflow.graph import KINDS
from lego_serve.serving.coordinator.dispatched_pools import DispatchedPools
from lego_serve.serving.coordinator.dispatcher import CellDispatcher
from lego_serve.serving.errors import DispatcherGone
from lego_serve.workflow_files import built_in_workflows
from tests.support.clocks import run_jumping

WORKFLOW = built_in_workflows()["lego-tiny"]
NODES = sorted({(node.model, KINDS[node.kind].component) for node in WORKFLOW.nodes.values()})
APP = "shared.workers"
SHARED = dict.fromkeys(NODES, APP)
HOSTED = {key: ".".join(key) for key in NODES}
MODELS = tuple(HOSTED.values())


class FakeDispatcher:
    """A dispatcher's process: ``died`` and ``hangs`` until it is told to go on, with what it knew or without."""

    def __init__(self) -> None:
        self.died = self.hangs = False
        self.reports: list[GatewayReport] = []
        self.start()

    def start(self) -> None:
        """A process that knows nothing."""
        self.died, self.inner = False, CellDispatcher({APP}, lambda: 500.0 + asyncio.get_running_loop().time())

    async def _answers(self) -> None:
        await asyncio.sleep(0.002)
        if self.died:
            raise DispatcherGone("it died")
        while self.hangs:
            await asyncio.sleep(0.1)

    async def hear(self, report: GatewayReport) -> DispatcherAnswer:
        """Answer, unless it died."""
        self.reports.append(report)
        await self._answers()
        return await self.inner.hear(report)

    async def offer(self, offer: JobOffer) -> Expectation | None:
        """Answer, unless it died."""
        await self._answers()
        return await self.inner.offer(offer)


def job(name: str, **more: float) -> Job:
    """A job of the built-in workflow."""
    return Job(name, "lego-tiny", {"width": 64, "height": 64, "steps": 2}, 0.0, **more)


def gateway(*dispatchers: FakeDispatcher) -> DispatchedPools:
    """A gateway of a server whose nodes are all shared; its clock is the loop's, the dispatcher's another."""
    return DispatchedPools(SHARED, HOSTED, asyncio.get_running_loop().time, Journal(), dispatchers)


def run(work: Coroutine[Any, Any, None]) -> None:
    """In no time."""
    run_jumping(within(work))


async def within(work: Coroutine[Any, Any, None]) -> None:
    """Whatever hangs fails."""
    async with asyncio.timeout(600):
        await work


async def started(*gateways: DispatchedPools, workers: tuple[str, ...] = ("w1", "w2")) -> None:
    """Until all know that the dispatcher answers."""
    for each in gateways:
        each.report(APP, dict.fromkeys(workers, MODELS))
    await asyncio.sleep(0.1)


def told(pools: DispatchedPools, kind: str = "dispatcher") -> list[tuple[str, str]]:
    """Subjects and reasons of what was decided."""
    return [(each.subject, each.why) for each in pools._journal.decisions() if each.kind == kind]
