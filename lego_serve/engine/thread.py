"""The one crossing between asyncio and the compute thread.

Requests, cancellations and other orders go in through a queue and are taken between steps; outcomes
and progress come back by ``call_soon_threadsafe``.  Nothing is interrupted in the middle of a step.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import PREPARING, ProgressThrottle, StreamOptions
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult, LaneState
from lego_serve.engine.step_engine import Outcome, StepEngine
from lego_serve.errors import LegoError, NodeError

log = logging.getLogger("lego_serve.engine")
SUSPECT_PAUSE_S = 0.02  # between saying that a suspect lane runs and running it, so that the word gets out
OnProgress = Callable[[LaneProgress], None]
Command = Callable[[], list[Outcome] | None]  # answers the lanes it ended, if any


@dataclass(frozen=True, slots=True)
class LaneListener:
    """Who hears of a lane, number ``lane`` of its call, of what, and how often its state is kept."""

    tell: OnProgress
    stream: StreamOptions = field(default_factory=StreamOptions)
    checkpoint_every_steps: int = 0
    lane: int = 0


class EngineThread:
    """Runs a StepEngine on its own thread for the coroutines of one event loop."""

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._futures: dict[str, asyncio.Future[LaneResult]] = {}
        self._watches: dict[str, tuple[LaneListener, ProgressThrottle]] = {}  # the compute thread's own
        self._announced: LaneState | None = None  # the suspect lane whose step is running; the compute thread's own
        self._inbox: deque[Command] = deque()
        self._drains: set[asyncio.Future[None]] = set()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the compute thread runs, and takes lanes."""
        return not self._closed and self._thread.is_alive()

    @property
    def lanes(self) -> int:
        """Lanes asked for and not answered."""
        return len(self._futures)

    async def submit(self, request: LaneRequest, watch: LaneListener | None = None) -> LaneResult:
        """Denoise one lane.  Raises LegoError; cancelling the await drops the lane at the next step."""
        if not self.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        future: asyncio.Future[LaneResult] = self._loop.create_future()
        self._futures[request.key] = future
        self._put(lambda: self._add(request, watch))
        try:
            return await future
        except asyncio.CancelledError:
            self._put(lambda: self._drop(request.key))
            raise
        finally:
            del self._futures[request.key]

    def pause(self, key: str) -> None:
        """Keep a lane from the next step on, without running it."""
        self._put(lambda: self._do(self._engine.pause, key))

    def resume(self, key: str) -> None:
        """Run a paused lane on."""
        self._put(lambda: self._do(self._engine.resume, key))

    def adapt(self, key: str, adapters: tuple[AdapterUse, ...]) -> None:
        """Give a lane submitted with ``wait_for_adapters_at`` its adapters; what is wrong with them ends the lane."""
        self._put(lambda: self._adapt(key, adapters))

    def controlnet_back(self, name: str) -> None:
        """A ControlNet elsewhere answers again: lanes that wait for it go on."""
        self._put(lambda: self._engine.controlnet_back(name))

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """It is still away: lanes that have waited for longer end."""
        self._put(lambda: self._engine.controlnet_unavailable(name, longest_s))

    def forget(self, image: str, pin: str) -> None:
        """Let go of what is kept of an image, after the current step, and of its pin."""
        self._put(lambda: self._engine.templates.forget(image, pin))

    async def drain(self) -> None:
        """Tell whoever watches a lane its state as it is after the current step; returns when all were told."""
        if not self.is_alive:
            return
        told: asyncio.Future[None] = self._loop.create_future()
        self._drains.add(told)

        def order() -> None:
            self._tell_all()
            self._loop.call_soon_threadsafe(_set, told)

        self._put(order)
        try:
            await told
        finally:
            self._drains.discard(told)

    def close(self) -> None:
        """Stop after the current step; lanes still in hand fail."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._end(NodeError("The replica is shutting down."))

    def _put(self, order: Command) -> None:
        with self._wake:
            self._inbox.append(order)
            self._wake.notify()

    def _end(self, error: LegoError) -> None:
        """Nothing runs any more: whoever waits is told so at once."""
        self._closed = True
        self._answer([(key, error) for key in list(self._futures)])
        for told in self._drains:
            _set(told)

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self._work()
        except Exception as error:
            log.exception("the compute thread has ended")
            failure = NodeError(f"The compute thread of this replica failed: {type(error).__name__}.")
            failure.__cause__ = error
            with contextlib.suppress(RuntimeError):  # the loop has ended too, and nobody waits
                self._loop.call_soon_threadsafe(self._end, failure)

    def _work(self) -> None:
        is_idle = True
        while True:
            with self._wake:
                while is_idle and not self._inbox and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                orders = list(self._inbox)
                self._inbox.clear()
            outcomes = [outcome for order in orders for outcome in order() or ()]
            plan = self._engine.plan()
            is_idle = plan is None
            if plan is not None:
                self._announce(plan.keys)
                outcomes += self._engine.step(plan)
                self._report()
            if outcomes:
                for key, _ in outcomes:
                    self._watches.pop(key, None)
                self._loop.call_soon_threadsafe(self._answer, outcomes)

    def _add(self, request: LaneRequest, watch: LaneListener | None) -> list[Outcome] | None:
        suspected = watch if request.suspect_steps > 0 else None
        if suspected is not None:  # a request may take the replica down before it has a step to be blamed for
            self._say(suspected, LaneProgress(suspected.lane, PREPARING, request.steps, is_starting=True))
            time.sleep(SUSPECT_PAUSE_S)
        try:
            state = self._engine.add(request)
        except LegoError as error:
            return [(request.key, error)]
        except Exception as error:
            return [(request.key, NodeError(f"The lane could not start: {type(error).__name__}: {error}"))]
        if watch is not None:
            throttle = ProgressThrottle(watch.stream, state.schedule.steps, watch.checkpoint_every_steps, state.step)
            self._watches[request.key] = watch, throttle
        if suspected is not None:
            self._say(suspected, _came_through(suspected, state))
        return None

    def _adapt(self, key: str, adapters: tuple[AdapterUse, ...]) -> list[Outcome] | None:
        try:
            self._engine.adapt(key, adapters)
        except KeyError:  # it has ended meanwhile
            return None
        except LegoError as error:
            self._engine.cancel(key)
            return [(key, error)]
        return None

    def _drop(self, key: str) -> None:
        self._engine.cancel(key)
        self._watches.pop(key, None)

    def _do(self, order: Callable[[str], bool], key: str) -> None:
        order(key)

    def _announce(self, keys: tuple[str, ...]) -> None:
        """Say that a suspect lane is about to run alone: if the replica dies now, it was this lane."""
        if len(keys) != 1 or not self._engine.is_suspect(keys[0]) or keys[0] not in self._watches:
            return
        state = self._announced = self._engine.state(keys[0])
        watch, _ = self._watches[keys[0]]
        progress = LaneProgress(watch.lane, state.step, state.schedule.steps, state.eta_s, is_starting=True)
        self._say(watch, progress)
        time.sleep(SUSPECT_PAUSE_S)

    def _report(self) -> None:
        now = time.monotonic()
        for state in self._engine.advanced:
            self._tell(state, now, drain=False)
        self._acquit()

    def _acquit(self) -> None:
        """Say of a lane that ran alone that it came through, or ended: what comes next is not its doing.

        At once, and also while it is a suspect still: another suspect may be next, and take the replica down.
        """
        state, self._announced = self._announced, None
        if state is not None and state.request.key in self._watches:
            watch, _ = self._watches[state.request.key]
            self._say(watch, _came_through(watch, state))

    def _tell_all(self) -> None:
        now = time.monotonic()
        for key in list(self._watches):
            try:
                state = self._engine.state(key)
            except KeyError:  # an order before this one ended it
                continue
            self._tell(state, now, drain=True)

    def _tell(self, state: LaneState, now: float, *, drain: bool) -> None:
        watched = self._watches.get(state.request.key)
        if watched is None:
            return
        watch, throttle = watched
        due = throttle.due(state.step, now, drain=drain)
        if due is None:
            return
        preview = state.predicted.cpu().numpy() if due.preview and state.predicted is not None else None
        checkpoint = self._engine.checkpoint(state.request.key) if due.checkpoint else None
        progress = LaneProgress(
            watch.lane, state.step, state.schedule.steps, state.eta_s, preview, checkpoint, is_report=due.report
        )
        self._say(watch, progress)

    def _say(self, watch: LaneListener, progress: LaneProgress) -> None:
        self._loop.call_soon_threadsafe(watch.tell, progress)

    def _answer(self, outcomes: list[Outcome]) -> None:
        for key, outcome in outcomes:
            future = self._futures.get(key)
            if future is None or future.done():
                continue
            if isinstance(outcome, LegoError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _came_through(watch: LaneListener, state: LaneState) -> LaneProgress:
    return LaneProgress(watch.lane, state.step, state.schedule.steps, state.eta_s, is_report=False)


def _set(told: "asyncio.Future[None]") -> None:
    if not told.done():
        told.set_result(None)
