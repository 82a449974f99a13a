"""The first process of a cluster's machine or container: runs Ray and gateways, and ends gateways before Ray.

``ray start --block`` takes a node on which only gateways run for an idle one, and is gone two seconds after a signal
with what their requests still need.  So the signal comes here: gateways finish first, and Ray hears of it then.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lego_serve.cluster.serve_config import on_a_cluster
from lego_serve.errors import ConfigError
from lego_serve.process.ray_token import require_token
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.process.tree import descendants

ENVIRONMENT = THREAD_ENVIRONMENT | {  # what `lego-serve serve` gives a Ray of its own
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_LOG_TO_STDERR": "1",
}
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
GATEWAYS_MARGIN_S = 10.0  # beyond their drain timeout, before they are killed
RAY_STOP_S = 75.0  # it drains a node for up to 60 s
LOOK_S = 1.0


def run_node(config_path: Path | None, gateways: int, ray: Sequence[str], report: Callable[[str], None]) -> int:
    """Run Ray's command, and gateways beside it; answers the exit status.  Raises ConfigError."""
    program = shutil.which(ray[0])
    if program is None:
        raise ConfigError(f"there is no program {ray[0]}; name Ray's own command after `--`")
    require_token(os.environ, Path.home())
    commands, drain_s = {"Ray": [program, *ray[1:]]}, 0.0
    if gateways:
        if config_path is None:
            raise ConfigError("gateways need `--config`")
        drain_s = on_a_cluster(config_path)[0].server.drain_timeout_s
        words = ["gateway", str(config_path), "--count", str(gateways)]
        commands["gateways"] = [sys.executable, "-m", "lego_serve.cli.main", *words]
    return Node(commands, {"gateways": drain_s + GATEWAYS_MARGIN_S, "Ray": RAY_STOP_S}, report).run()


class Node:
    """Processes that belong together: when one ends, or a signal comes, all end, in the order of ``stop_s``.

    ``stop_s`` is how long each may take after SIGTERM.  As the first process of a container it also takes in whatever
    its descendants leave behind.
    """

    def __init__(
        self, commands: Mapping[str, Sequence[str]], stop_s: Mapping[str, float], report: Callable[[str], None]
    ) -> None:
        self._commands, self._stop_s, self._report = commands, stop_s, report
        self._running: dict[int, str] = {}
        self._statuses: dict[str, int] = {}

    def run(self) -> int:
        """Start all, and wait for the end: 0 after a signal, else the status of the one that ended by itself."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            for name, command in self._commands.items():
                environment = os.environ | {key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()}
                pid = os.posix_spawn(command[0], list(command), environment, setsigmask=())
                self._running[pid] = name
            is_asked = self._wait(lambda: len(self._running) < len(self._commands), None)
            first = next(iter(self._statuses), None)
            self._report("stopping" if is_asked else f"{first} ended with status {self._statuses[first or '']}")
            for name in self._stop_s:
                self._stop(name)
            return 0 if is_asked else max(1, self._statuses[first or ""])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _stop(self, name: str) -> None:
        pids = [pid for pid, running in self._running.items() if running == name]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        self._wait(lambda: not self._is_running(pids), self._stop_s[name])
        if not self._is_running(pids):
            return
        self._report(f"{name} did not end within {self._stop_s[name]:.0f} s and is killed")
        for pid in pids:
            for below in (*descendants(pid), pid):
                os.kill(below, signal.SIGKILL)
        self._wait(lambda: not self._is_running(pids), None)

    def _is_running(self, pids: Iterable[int]) -> bool:
        return any(pid in self._running for pid in pids)

    def _wait(self, is_over: Callable[[], bool], most_s: float | None) -> bool:
        """Wait; answers whether a signal asked for the end, which cuts a wait without a limit short."""
        end_s = None if most_s is None else time.monotonic() + most_s
        self._take_in()
        while not is_over() and (end_s is None or time.monotonic() < end_s):
            caught = signal.sigtimedwait(HANDLED, LOOK_S)
            self._take_in()
            if caught is not None and caught.si_signo != signal.SIGCHLD and end_s is None:
                return True
        return False

    def _take_in(self) -> None:
        """Note the ends of processes, whosever they are."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if name := self._running.pop(pid, None):
                self._statuses[name] = os.waitstatus_to_exitcode(status)
