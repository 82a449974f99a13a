"""Commands to all replicas through Ray Serve's handles: what the dead, the unreachable and the failing make of them."""

import asyncio
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from lego_serve.core.nodes.requests import CountTemplateBytes
from lego_serve.errors import NodeError
from lego_serve.serving.cluster.handles import RayNode
from lego_serve.serving.errors import NodeLost

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
