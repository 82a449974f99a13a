"""Orders to all replicas of a node: given again for as long as replicas that died are not known to have."""

import asyncio
import time

import pytest

from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.coordinator.broadcast import ask_template, broadcast, drain, list_replicas
from lego_serve.serving.errors import NodeLost


class Replicas:
    """A deployment of two replicas, which cannot be asked until some seconds from now."""

    def __init__(self, away_s: float) -> None:
        self._until = time.monotonic() + away_s
        self.asked = 0

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """What each says."""
        self.asked += 1
        await asyncio.sleep(0)
        if time.monotonic() < self._until:
            raise NodeLost
        return [("r1", 7), ("r2", None)]


async def test_orders_wait_longer_than_serve_takes_to_notice_several_deaths() -> None:
    """More than the four seconds that were seen not to be enough; who is unknown then is not found."""
    nodes = {("m", "backbone"): Replicas(4.5)}
    started = time.monotonic()
    with pytest.raises(NotFound):
        await drain(nodes, "nobody")
    assert time.monotonic() - started >= 4.5
    assert nodes["m", "backbone"].asked < 12, "with pauses, not in a hurry"


async def test_nodes_are_waited_for_together() -> None:
    """Several that cannot be asked take no longer than one."""
    nodes = {(model, "backbone"): Replicas(60.0) for model in "abc"}
    started = time.monotonic()
    for ask in (list_replicas(nodes, 0.3), drain(nodes, "r1", 0.3)):
        with pytest.raises(NodeUnavailable):
            await ask
    assert time.monotonic() - started < 1.2


@pytest.mark.parametrize("patience_s", [0.0, 0.3])
async def test_patience_ends_as_a_503_that_says_when_to_come_back(patience_s: float) -> None:
    """It is tried once at least, and once more at the end."""
    node = Replicas(60.0)
    started = time.monotonic()
    with pytest.raises(NodeUnavailable, match="Ask again") as late:
        await broadcast(node, "list", "", patience_s)
    assert (late.value.status, late.value.code, late.value.retryable) == (503, "replica_lost", True)
    assert late.value.retry_after_s
    assert patience_s <= time.monotonic() - started < patience_s + 1
    assert node.asked in ((3, 4) if patience_s else (1, 2))
    with pytest.raises(NodeUnavailable):
        await ask_template({("m", "backbone"): node}, TemplateCommand("bytes", "m", "p"), patience_s)
