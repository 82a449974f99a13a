"""Commands to all replicas of a node: given again for as long as replicas that died are not known to have."""

import asyncio
from typing import Any

import pytest

from lego_serve.core.nodes.requests import CountTemplateBytes, DrainReplica, Identify, ReplicaCommand
from lego_serve.core.scheduling.retry import BROADCAST, RetryPolicy
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.coordinator.broadcast import ask_about_template, broadcast, drain, list_replicas
from lego_serve.serving.errors import NodeLost
from tests.support.clocks import run_jumping

ONCE, BRIEFLY = RetryPolicy(1, (0.0,)), RetryPolicy(3, (0.2, 0.1))


class Replicas:
    """A deployment of two replicas, which cannot be asked until some seconds from now; each answer takes a while."""

    def __init__(self, away_s: float, takes_s: float = 0.0) -> None:
        self._until, self._takes_s = away_s, takes_s  # by the loop's clock, which starts at 0
        self.asked = 0

    async def control(self, command: ReplicaCommand) -> list[tuple[str, Any]]:
        """What each replies."""
        self.asked += 1
        await asyncio.sleep(self._takes_s)
        if asyncio.get_running_loop().time() < self._until:
            raise NodeLost
        return [("r1", 7), ("r2", None)]


def test_commands_wait_longer_than_serve_takes_to_notice_several_deaths() -> None:
    """More than the four seconds that were seen not to be enough; who is unknown then is not found."""
    nodes = {("m", "backbone"): Replicas(4.5)}

    async def drained_at_s() -> float:
        with pytest.raises(NotFound):
            await drain(nodes, "nobody")
        return asyncio.get_running_loop().time()

    assert run_jumping(drained_at_s()) >= 4.5
    assert nodes["m", "backbone"].asked < 12, "with pauses, not in a hurry"
    assert BROADCAST.longest_s >= 20


class Hosted(Replicas):
    """A backbone on two shared workers, the second of which drains with what it has in hand."""

    def __init__(self, moved: int) -> None:
        super().__init__(0.0)
        self._moved = moved

    async def control(self, command: ReplicaCommand) -> list[tuple[str, Any]]:
        """Only the worker that is named moves anything."""
        return [("w1", None), ("w2", self._moved if command == DrainReplica("w2") else None)]


def test_a_shared_worker_is_drained_whichever_of_its_nodes_is_named() -> None:
    """With all its backbones, whose calls are counted together."""
    nodes = {("one", "backbone"): Hosted(2), ("two", "backbone"): Hosted(1), ("own", "backbone"): Replicas(0.0)}
    for name in ("w2", "w2.one.backbone", "w2.one.vae"):
        assert run_jumping(drain(nodes, name)) == 3
    with pytest.raises(NotFound):
        run_jumping(drain(nodes, "w3.one.backbone"))


def test_nodes_are_waited_for_together() -> None:
    """Several that cannot be asked take no longer than one."""
    nodes = {(model, "backbone"): Replicas(60.0) for model in "abc"}

    async def given_up_at_s() -> float:
        for ask in (list_replicas(nodes, BRIEFLY), drain(nodes, "r1", BRIEFLY)):
            with pytest.raises(NodeUnavailable):
                await ask
        return asyncio.get_running_loop().time()

    assert run_jumping(given_up_at_s()) == pytest.approx(2 * BRIEFLY.longest_s)


@pytest.mark.parametrize("retry", [ONCE, BRIEFLY])
def test_patience_ends_as_a_503_that_says_when_to_come_back(retry: RetryPolicy) -> None:
    """It is tried once at least, and once more at the end."""
    node = Replicas(60.0)

    async def given_up_at_s() -> float:
        with pytest.raises(NodeUnavailable, match="Ask again") as late:
            await broadcast(node, Identify(), retry)
        assert (late.value.status, late.value.code, late.value.retryable) == (503, "replica_lost", True)
        assert late.value.retry_after_s
        return asyncio.get_running_loop().time()

    assert run_jumping(given_up_at_s()) == pytest.approx(retry.longest_s)
    assert node.asked == retry.attempts
    with pytest.raises(NodeUnavailable):
        run_jumping(ask_about_template({("m", "backbone"): node}, "m", CountTemplateBytes("p"), retry))


def test_patience_ends_in_time_though_every_answer_takes_long() -> None:
    """The pauses are no more than the policy's, and no attempt is begun after their sum."""
    node = Replicas(600.0, takes_s=9.0)

    async def given_up_at_s() -> float:
        with pytest.raises(NodeUnavailable):
            await broadcast(node, Identify())
        return asyncio.get_running_loop().time()

    assert run_jumping(given_up_at_s()) <= BROADCAST.longest_s + 9.0
