"""Calls and commands through Ray Serve's handles: what the dead, the unreachable and the failing make of them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from lego_serve.core.jobs.messages import LaneProgress, Message, NodeCall
from lego_serve.core.nodes.messages import DenoiseInput
from lego_serve.core.nodes.requests import CountTemplateBytes
from lego_serve.errors import NodeError
from lego_serve.serving.cluster import handles
from lego_serve.serving.cluster.handles import RayNode
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.suspects import StoredWitness
from tests.support.scale_texts import FakeStore

DEAD = ActorDiedError()
AWAY = ActorUnavailableError("no answer", None)
FAILED = RayTaskError("control", "the traceback", ValueError("a"))
SAID = ("r1", 7)
COMMAND = CountTemplateBytes("p")


class Broadcast:
    """What a handle's broadcast gives: the replicas' results, or the first exception among them."""

    def __init__(self, results: list[Any]) -> None:
        self._results = results

    async def results_async(self, *, return_exceptions: bool = False) -> list[Any]:
        """As Serve has it."""

        async def one(result: Any) -> Any:
            if isinstance(result, BaseException):
                raise result
            return result

        return list(await asyncio.gather(*map(one, self._results), return_exceptions=return_exceptions))


class Handle:
    """A deployment whose replicas answer so."""

    app_name = "m.backbone"

    def __init__(self, *results: Any) -> None:
        self._results = list(results)
        self.asked: list[tuple[object, ...]] = []

    def options(self, **options: object) -> "Handle":
        """Itself."""
        return self

    @property
    def stream(self) -> "Handle":
        """The method of that name."""
        return self

    def remote(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """The stream of a call, which the first exception among the results ends."""
        self.asked.append(("stream", call.key))

        async def messages() -> AsyncIterator[Message]:
            for result in self._results:
                if isinstance(result, BaseException):
                    raise result
                yield result

        return messages()

    def broadcast(self, method: str, *arguments: object) -> Broadcast:
        """To all replicas there are; Serve refuses where there is none."""
        self.asked.append((method, *arguments))
        if not self._results:
            raise DeploymentUnavailableError("m.backbone")
        return Broadcast(self._results)


async def test_a_replica_that_has_died_has_nothing_to_say() -> None:
    """However many have, as long as one answers; nobody need wait for Serve to have noticed."""
    handle = Handle(DEAD, ("r1", 7), DEAD, ("r2", None), DEAD)
    assert await RayNode(handle).control(COMMAND) == [("r1", 7), ("r2", None)]
    assert handle.asked == [("control", COMMAND)]


@pytest.mark.parametrize(
    "results",
    [(), (DEAD,), (SAID, AWAY), (SAID, asyncio.CancelledError()), (SAID, DeploymentUnavailableError("m"))],
    ids=["nobody", "all dead", "one that may live", "one being stopped", "one that takes none"],
)
async def test_without_an_answer_of_all_that_may_live_the_command_is_to_be_given_again(
    results: tuple[Any, ...],
) -> None:
    """What is known then is not the whole of it."""
    with pytest.raises(NodeLost):
        await RayNode(Handle(*results)).control(COMMAND)


async def test_a_replica_that_fails_is_an_error_of_ours() -> None:
    """Asking again would not help."""
    with pytest.raises(NodeError, match="ValueError"):
        await RayNode(Handle(("r1", 7), FAILED)).control(COMMAND)


class Cluster:
    """A cluster's witness, over texts of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = FakeStore()
        self.witness = StoredWitness(self.store, (ConnectionError,))
        monkeypatch.setattr(handles, "clusters_witness", lambda: self.witness)

    async def heard(self, *results: Any, suspect_steps: int = 1) -> list[LaneProgress]:
        """What is heard of the lanes of a call whose replica dies."""
        call = NodeCall(DenoiseInput, key="mine", suspect_steps=suspect_steps)  # type: ignore[type-var]
        said = list[LaneProgress]()
        try:
            async for message in RayNode(Handle(*results, DEAD)).stream(call):  # type: ignore[arg-type]
                said += [message] if isinstance(message, LaneProgress) else []
        except NodeLost:
            return said
        pytest.fail("the call was not lost")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A fresh one."""
    return Cluster(monkeypatch)


STARTS = LaneProgress(0, 4, 9, is_starting=True)


async def test_a_word_of_a_suspect_that_did_not_leave_its_replica_is_heard_from_the_witness(cluster: Cluster) -> None:
    """And forgotten there."""
    cluster.witness.note("mine", STARTS)
    assert await cluster.heard() == [STARTS]
    assert not cluster.store.texts


async def test_a_suspect_that_came_through_is_not_taken_for_one_that_was_about_to_run(cluster: Cluster) -> None:
    """Its own word of that was lost with its replica, which another suspect took down."""
    assert await cluster.heard(STARTS) == [STARTS, replace(STARTS, is_starting=False)]


async def test_without_a_witness_what_was_heard_of_a_suspect_holds(cluster: Cluster) -> None:
    """Ray's head may be away for a while."""
    cluster.store.is_gone = True
    assert await cluster.heard(STARTS) == [STARTS]


async def test_nobody_is_asked_about_a_lost_call_that_was_no_suspect(cluster: Cluster) -> None:
    """Most are none."""
    cluster.witness.note("mine", STARTS)
    assert await cluster.heard(suspect_steps=0) == []
    assert cluster.store.texts
