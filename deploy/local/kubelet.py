"""Asks a pod by its own probes, on their schedule, and ends it where it does not live."""

import http.client
import subprocess
import threading
import time
from collections.abc import Callable

from deploy.local.containers import Container
from deploy.local.network import Place
from deploy.local.pods import Pod, Probe


class RunningPod:
    """A pod that runs in a place; ``ended`` is called once with its exit status, from a thread of its own."""

    def __init__(
        self, pod: Pod, name: str, place: Place, container: Container, ended: Callable[["RunningPod", int], None]
    ) -> None:
        self.pod, self.name, self.place, self.container = pod, name, place, container
        self.started_s = time.monotonic()
        self.ready_s: float | None = None  # when it got ready, counted from its start
        self.is_ready = False
        self.is_leaving = False
        self.killed_for: str | None = None
        self._over = threading.Event()
        for work in (lambda: self._wait(ended), self._probe):
            threading.Thread(target=work, daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    def delete(self) -> None:
        """End it as Kubernetes does: not ready, what it does before, a signal, and after its grace a kill."""
        self.is_leaving, self.is_ready = True, False
        started = time.monotonic()
        self._over.wait(self.pod.pre_stop_s)
        self.container.stop(self.pod.grace_s - (time.monotonic() - started))
        self._over.wait()

    def _wait(self, ended: Callable[["RunningPod", int], None]) -> None:
        status = self.container.wait()
        self.is_ready = False
        self._over.set()
        ended(self, status)

    def _probe(self) -> None:
        """The start-up probe first; then liveness and readiness, each at its own times."""
        self.place.enter()
        if (startup := self.pod.probes.get("startup")) is not None and not self._passes_in_time(startup, "startup"):
            return
        waiting = {kind: probe for kind, probe in self.pod.probes.items() if kind != "startup"}
        due = {kind: time.monotonic() + probe.delay_s for kind, probe in waiting.items()}
        failed = dict.fromkeys(waiting, 0)
        if "readiness" not in waiting:
            self._get_ready(True)
        while waiting and not self._over.is_set():
            kind = min(due, key=lambda each: due[each])
            if self._over.wait(max(0.0, due[kind] - time.monotonic())):
                return
            due[kind] = time.monotonic() + waiting[kind].period_s
            failed[kind] = 0 if self._passes(waiting[kind]) else failed[kind] + 1
            if kind == "readiness" and (failed[kind] == 0 or failed[kind] >= waiting[kind].failures):
                self._get_ready(failed[kind] == 0)
            if kind == "liveness" and failed[kind] >= waiting[kind].failures and not self.is_leaving:
                self.killed_for = kind
                self.container.kill()

    def _get_ready(self, is_ready: bool) -> None:
        self.is_ready = is_ready and not self.is_leaving and not self._over.is_set()
        if self.is_ready and self.ready_s is None:
            self.ready_s = time.monotonic() - self.started_s

    def _passes_in_time(self, probe: Probe, kind: str) -> bool:
        self._over.wait(probe.delay_s)
        for _ in range(probe.failures):
            if self._passes(probe):
                return True
            if self._over.wait(probe.period_s):
                return False
        self.killed_for = kind
        self.container.kill()
        return False

    def _passes(self, probe: Probe) -> bool:
        if probe.command:
            words = ["podman", "exec", self.container.name, *probe.command]
            try:
                done = subprocess.run(words, capture_output=True, timeout=probe.timeout_s + 2, check=False)
            except subprocess.TimeoutExpired:
                return False
            return done.returncode == 0
        connection = http.client.HTTPConnection(self.place.address, probe.port, timeout=probe.timeout_s)
        try:
            connection.connect()
            if probe.path is None:
                return True
            connection.request("GET", probe.path)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
