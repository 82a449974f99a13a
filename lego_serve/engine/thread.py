"""The one crossing between asyncio and the compute thread.

Requests and cancellations go in through a queue and are taken between steps; outcomes come back by
``call_soon_threadsafe``.  Nothing is interrupted in the middle of a step.
"""

import asyncio
import threading
from collections import deque

import torch

from lego_serve.engine.step_engine import LaneRequest, LaneResult, StepEngine
from lego_serve.errors import LegoError, NodeError


class EngineThread:
    """Runs a StepEngine on its own thread for the coroutines of one event loop."""

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._futures: dict[str, asyncio.Future[LaneResult]] = {}
        self._inbox: deque[LaneRequest | str] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._thread.is_alive()

    @property
    def lanes(self) -> int:
        """Lanes asked for and not answered."""
        return len(self._futures)

    async def submit(self, request: LaneRequest) -> LaneResult:
        """Denoise one lane.  Raises LegoError; cancelling the await drops the lane at the next step."""
        if self._closed or not self.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        future: asyncio.Future[LaneResult] = self._loop.create_future()
        self._futures[request.key] = future
        self._put(request)
        try:
            return await future
        except asyncio.CancelledError:
            self._put(request.key)
            raise
        finally:
            del self._futures[request.key]

    def close(self) -> None:
        """Stop after the current step; lanes still in hand fail."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._answer([(key, NodeError("The replica is shutting down.")) for key in list(self._futures)])

    def _put(self, item: LaneRequest | str) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()

    def _run(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._wake:
                while not self._inbox and not self._engine.lanes and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                items = list(self._inbox)
                self._inbox.clear()
            refused = [outcome for item in items if (outcome := self._take(item)) is not None]
            outcomes = [*refused, *self._engine.step()]
            if outcomes:
                self._loop.call_soon_threadsafe(self._answer, outcomes)

    def _take(self, item: LaneRequest | str) -> tuple[str, LegoError] | None:
        if isinstance(item, str):
            self._engine.cancel(item)
            return None
        try:
            self._engine.add(item)
        except LegoError as error:
            return item.key, error
        except Exception as error:
            return item.key, NodeError(f"The lane could not start: {type(error).__name__}: {error}")
        return None

    def _answer(self, outcomes: list[tuple[str, LaneResult | LegoError]]) -> None:
        for key, outcome in outcomes:
            future = self._futures.get(key)
            if future is None or future.done():
                continue
            if isinstance(outcome, LegoError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
