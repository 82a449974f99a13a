"""The one crossing between asyncio and the compute thread.

Requests, cancellations and other commands go in through a queue and are taken between steps; outcomes and progress
come back by ``call_soon_threadsafe``.  Nothing is interrupted in the middle of a step.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import BEGUN, PREPARING, ProgressThrottle
from lego_serve.engine.lane_listener import LaneListener
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult, LaneState
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.engine.step_engine import Outcome, StepEngine
from lego_serve.errors import LegoError, NodeError

log = logging.getLogger("lego_serve.engine")
Command = Callable[[], list[Outcome] | None]  # run by the compute thread; returns the lanes it ended, if any


class EngineThread:
    """Runs a StepEngine on its own thread for the coroutines of one event loop."""

    def __init__(self, engine: StepEngine, turns: ComputeTurns | None = None) -> None:
        """``turns``: those of all that compute in this process, where that is more than this engine."""
        self._engine = engine
        self._turns = turns or ComputeTurns()
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._futures: dict[str, asyncio.Future[LaneResult]] = {}
        self._listeners: dict[str, tuple[LaneListener, ProgressThrottle]] = {}  # of the compute thread alone
        self._announced: LaneState | None = None  # the suspect lane in the running step; of the compute thread alone
        self._commands: deque[Command] = deque()
        self._drains: set[asyncio.Future[None]] = set()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the compute thread runs and takes lanes."""
        return not self._closed and self._thread.is_alive()

    @property
    def lanes(self) -> int:
        """The number of lanes that were submitted and have not ended."""
        return len(self._futures)

    async def submit(self, request: LaneRequest, listener: LaneListener | None = None) -> LaneResult:
        """Denoise one lane.  Raises LegoError; cancelling the await drops the lane at the next step."""
        if not self.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        future: asyncio.Future[LaneResult] = self._loop.create_future()
        self._futures[request.key] = future
        self._enqueue(lambda: self._add(request, listener))
        try:
            return await future
        except asyncio.CancelledError:
            self._enqueue(lambda: self._drop(request.key))
            raise
        finally:
            del self._futures[request.key]

    def pause(self, key: str) -> None:
        """Keep a lane, from the next step on, without running it."""

        def command() -> None:
            self._engine.pause(key)

        self._enqueue(command)

    def resume(self, key: str) -> None:
        """Run a paused lane on."""

        def command() -> None:
            self._engine.resume(key)

        self._enqueue(command)

    def adapt(self, key: str, adapters: tuple[AdapterUse, ...]) -> None:
        """Give a lane submitted with ``wait_for_adapters_at`` its adapters; it fails where they do not fit."""
        self._enqueue(lambda: self._adapt(key, adapters))

    def controlnet_back(self, name: str) -> None:
        """Run the lanes on that wait for a ControlNet elsewhere, which can be reached again."""
        self._enqueue(lambda: self._engine.controlnet_back(name))

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """End the lanes that have waited longer than this for a ControlNet, which is still unreachable."""
        self._enqueue(lambda: self._engine.controlnet_unavailable(name, longest_s))

    def forget(self, image: str, pin: str) -> None:
        """Release a pin of an image, and drop the image's entries, after the current step."""
        self._enqueue(lambda: self._engine.templates.forget(image, pin))

    async def drain(self) -> None:
        """Send every listener its lane's state as it is after the current step; return when all are sent."""
        if not self.is_alive:
            return
        drained: asyncio.Future[None] = self._loop.create_future()
        self._drains.add(drained)

        def command() -> None:
            self._report_all()
            self._loop.call_soon_threadsafe(_resolve, drained)

        self._enqueue(command)
        try:
            await drained
        finally:
            self._drains.discard(drained)

    def close(self) -> None:
        """Stop after the current step; lanes that have not ended fail.  It may wait, and off the loop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        failure = NodeError("The replica is shutting down.")
        if threading.get_ident() == self._loop_thread:
            self._fail_all(failure)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._fail_all, failure)

    def _enqueue(self, command: Command) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _fail_all(self, error: LegoError) -> None:
        """Fail every lane and end every drain at once: nothing runs any more."""
        self._closed = True
        self._resolve_lanes([(key, error) for key in list(self._futures)])
        for drained in self._drains:
            _resolve(drained)

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self._run_steps()
        except Exception as error:
            log.exception("the compute thread has ended")
            failure = NodeError(f"The compute thread of this replica failed: {type(error).__name__}.")
            failure.__cause__ = error
            with contextlib.suppress(RuntimeError):  # the loop has ended too, and nobody waits
                self._loop.call_soon_threadsafe(self._fail_all, failure)
        finally:
            self._turns.note_working(self, is_working=False)

    def _run_steps(self) -> None:
        is_idle = True
        while True:
            with self._wake:
                while is_idle and not self._commands and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                commands = list(self._commands)
                self._commands.clear()
            outcomes = [outcome for command in commands for outcome in command() or ()]
            plan = self._engine.plan()
            is_idle = plan is None
            self._turns.note_working(self, is_working=not is_idle)
            if plan is not None:
                with self._turns.turn(self._engine.due_s(plan)):
                    self._announce_suspect(plan.keys)
                    outcomes += self._engine.step(plan)
                self._report_step()
            if outcomes:
                for key, _ in outcomes:
                    self._listeners.pop(key, None)
                self._loop.call_soon_threadsafe(self._resolve_lanes, outcomes)

    def _add(self, request: LaneRequest, listener: LaneListener | None) -> list[Outcome] | None:
        is_announced = listener is not None and request.suspect_steps > 0
        if listener is not None and is_announced:  # it may take the replica down before it has a step to be blamed for
            self._announce(listener, LaneProgress(listener.lane, PREPARING, request.steps, is_starting=True))
        try:
            state = self._engine.add(request)
        except LegoError as error:
            return [(request.key, error)]
        except Exception as error:  # a library's words are for the log alone
            log.exception("a lane could not start")
            return [(request.key, NodeError(f"The lane could not start: {type(error).__name__}."))]
        finally:
            if listener is not None and is_announced:
                listener.came_through()
        if listener is not None:
            throttle = ProgressThrottle(
                listener.stream, state.schedule.steps, listener.checkpoint_every_steps, state.step
            )
            self._listeners[request.key] = listener, throttle
            if is_announced:
                self._send(listener, state.survived(listener.lane))
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
        self._listeners.pop(key, None)

    def _announce_suspect(self, keys: tuple[str, ...]) -> None:
        """Send that a suspect lane is about to run alone: if the replica dies now, it was this lane."""
        if len(keys) != 1 or not self._engine.is_suspect(keys[0]) or keys[0] not in self._listeners:
            return
        state = self._announced = self._engine.state(keys[0])
        listener, _ = self._listeners[keys[0]]
        progress = LaneProgress(listener.lane, state.step, state.schedule.steps, state.eta_s, is_starting=True)
        self._announce(listener, progress)

    def _report_step(self) -> None:
        now = time.monotonic()
        for state in self._engine.advanced:
            self._report(state, now, drain=False)
        self._clear_suspect()

    def _clear_suspect(self) -> None:
        """Send of an announced lane that its step, or the whole lane, is over: what comes next is not its doing.

        At once, and also where it is a suspect still: another suspect may be next and take the replica down.
        """
        state, self._announced = self._announced, None
        if state is not None and state.request.key in self._listeners:
            listener, _ = self._listeners[state.request.key]
            self._send(listener, state.survived(listener.lane))
            listener.came_through()

    def _announce(self, listener: LaneListener, starting: LaneProgress) -> None:
        self._send(listener, starting)
        listener.wait_until_known(starting)

    def _report_all(self) -> None:
        now = time.monotonic()
        for key in list(self._listeners):
            try:
                state = self._engine.state(key)
            except KeyError:  # a command before this one ended it
                continue
            self._report(state, now, drain=True)

    def _report(self, state: LaneState, now: float, *, drain: bool) -> None:
        """Send a lane's listener the message that is due after its last step, if any."""
        if state.request.key not in self._listeners:
            return
        listener, throttle = self._listeners[state.request.key]
        due = throttle.due(state.step, now, drain=drain)
        if due is None or (due == BEGUN and state is self._announced):  # of that lane it is said anyway
            return
        progress = LaneProgress(
            lane=listener.lane,
            step=state.step,
            steps=state.schedule.steps,
            eta_s=state.eta_s,
            preview=state.predicted.cpu().numpy() if due.preview and state.predicted is not None else None,
            checkpoint=self._engine.checkpoint(state.request.key) if due.checkpoint else None,
            is_report=due.report,
        )
        self._send(listener, progress)

    def _send(self, listener: LaneListener, progress: LaneProgress) -> None:
        self._loop.call_soon_threadsafe(listener.on_progress, progress)

    def _resolve_lanes(self, outcomes: list[Outcome]) -> None:
        for key, outcome in outcomes:
            future = self._futures.get(key)
            if future is None or future.done():
                continue
            if isinstance(outcome, LegoError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
