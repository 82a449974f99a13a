"""Keeps Ray and the nodes there: starts the process that runs them, and another one when Ray is lost."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lego_serve import errors
from lego_serve.errors import LegoError, NodeError
from lego_serve.process.reporting_child import ReportingChild, adopt_orphans, end_descendants
from lego_serve.process.signals import StopSignal
from lego_serve.supervision.cluster_process import FIRST, GCS

POLL_S = 0.05
STOP_S = 30.0  # that Ray and the nodes have to stop
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # between attempts to start another Ray; the last is repeated
STARTS = 3  # of a Ray whose own processes take too long to start, or find that another has taken a port of theirs
RAY_DID_NOT_START = "ray_did_not_start"  # as serving/cluster/deploy has it, which imports Ray
COMMAND = (sys.executable, "-m", "lego_serve.supervision.cluster_process")
Report = Callable[[str], None]
log = logging.getLogger("lego_serve.cluster")


class ClusterSupervisor:
    """The process that runs Ray and the nodes, whose address is in ``address_file`` while there is one.

    ``spared``: the processes that are ours and not Ray's.
    """

    def __init__(
        self,
        config_path: Path,
        folder: Path,
        report: Report,
        spared: Callable[[], list[int]],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._command, self._config_path, self._folder, self._report, self._spared = (
            command,
            config_path,
            folder,
            report,
            spared,
        )
        self.address_file = folder / "ray-address"
        self._number = self._failures = 0
        self._child: ReportingChild | None = None
        self._restart_s: float | None = None  # when to start another; None while one runs
        self._lost_s = 0.0
        self.is_up = False
        self.is_joined = False  # whether gateways may have joined the Ray that runs, or was lost last

    @property
    def is_restarting(self) -> bool:
        """Whether a Ray was lost and the next is not there yet."""
        return self._lost_s > 0

    def start(self) -> None:
        """Start Ray and the nodes, or begin to."""
        adopt_orphans()
        self.is_joined = False
        name = FIRST if self._number == 0 else f"{FIRST}{self._number}"
        self._number += 1
        words = [str(self._config_path), str(self._folder), str(self._folder / name)]
        self._child = ReportingChild([*self._command, *words])

    def wait_for_address(self, stopping: StopSignal) -> str:
        """Wait until Ray runs; answers its address.  Raises LegoError, or Stopped."""
        while not self.address_file.exists():
            try:
                self._step(stopping)
            except NodeError as error:
                if error.code != RAY_DID_NOT_START or self._number >= STARTS:
                    raise
                log.warning("%s; it is started again", error.message)
                self._clear_away()
                self.start()
        return self.address_file.read_text()

    def wait_until_up(self, stopping: StopSignal) -> None:
        """Wait until the nodes run.  Raises LegoError, or Stopped."""
        while not self.is_up:
            self._step(stopping)

    def lost(self) -> str:
        """Return what of Ray has been lost since the last call; empty for nothing.  Goes on with starting another."""
        if self._child is None:
            if self._restart_s is not None and time.monotonic() >= self._restart_s:
                self._restart_s = None
                self.start()
            return ""
        try:
            lost = self._hear()
        except LegoError as error:
            log.error("the nodes could not be started: %s", error.message)
            lost = error.code
        if lost:
            if self.is_up:
                self._lost_s = time.monotonic()
            self.is_up = False
            self.address_file.unlink(missing_ok=True)
        return lost

    def start_another(self) -> None:
        """End what is left of the Ray that is lost, and start another, later the more often that has failed."""
        self._clear_away()
        pause_s = RETRY_S[min(self._failures, len(RETRY_S)) - 1] if self._failures else 0.0
        self._failures += 1
        self._restart_s = time.monotonic() + pause_s

    def _clear_away(self) -> None:
        """End what is left of a Ray, and remove its files."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        end_descendants(self._spared())
        for old in self._folder.glob("ray*"):
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)

    def stop(self) -> None:
        """Stop the nodes and Ray."""
        if self._child is not None:
            self._child.stop(STOP_S)
            self._child = None
        if self._number:
            end_descendants(self._spared())

    def _step(self, stopping: StopSignal) -> None:
        stopping.check()
        if lost := self._hear():
            raise NodeError(f"Ray ended while its nodes were starting: {lost} is gone", code="ray_lost")
        time.sleep(POLL_S)

    def _hear(self) -> str:
        """Take in what the process tells; return what is lost.  Raises LegoError where it could not start."""
        child, lost = self._child, ""
        assert child is not None
        status = child.status  # before it is heard: what it told at its end is not missed
        for fact in child.told():
            if "report" in fact:
                self._report(fact["report"])
            elif "address" in fact:
                self._write_address(fact["address"])
            elif "up" in fact:
                self._came_up()
            elif "lost" in fact:
                lost = fact["lost"]
            elif "error" in fact:
                kind: type[LegoError] = getattr(errors, fact["error"], NodeError)
                raise kind(fact["message"], code=fact["code"])
        if status is not None and not lost:
            if not self.is_up and self._lost_s == 0:
                message = f"the process that starts Ray and the nodes ended with status {status}"
                raise NodeError(f"{message}; what it said, if anything, stands above", code="ray_lost")
            return "its process"
        return lost

    def _write_address(self, address: str) -> None:
        self.is_joined = True
        new = self.address_file.with_suffix(".new")
        new.write_text(address)
        os.replace(new, self.address_file)

    def _came_up(self) -> None:
        self.is_up, self._failures = True, 0
        if self._lost_s:
            self._report(f"Ray and the nodes are back after {time.monotonic() - self._lost_s:.1f} s")
            self._lost_s = 0.0


def lets_requests_finish(lost: str) -> bool:
    """Whether the nodes can still answer: without its GCS a Ray goes on for a minute, and never gets one again."""
    return lost == GCS
