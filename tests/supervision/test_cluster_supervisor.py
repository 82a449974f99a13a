"""Ray's process is started, heard and replaced; here it is a script that only says that it runs Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lego_serve.errors import ConfigError, NodeError
from lego_serve.process.signals import Stopped, StopSignal
from lego_serve.process.tree import descendants, is_alive
from lego_serve.serving.cluster import deploy
from lego_serve.supervision.cluster_supervisor import RAY_DID_NOT_START, ClusterSupervisor, lets_requests_finish

ACTS = """
import os, subprocess, sys, time
from pathlib import Path
from lego_serve.process.reporting_child import Parent
from lego_serve.process.signals import StopSignal

stopping = StopSignal()
stopping.install()
acts, folder, ray = Path(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[4])
parent = Parent(int(sys.argv[5]), int(sys.argv[6]))
act = acts.read_text()
ray.mkdir()
if act == "refuses":
    parent.tell(error="ConfigError", message="no such model", code="invalid_config")
    sys.exit(1)
if act == "slow" and ray.name != "ray2":
    parent.tell(error="NodeError", message="Ray did not start", code="ray_did_not_start")
    sys.exit(1)
if act == "never":
    parent.tell(error="NodeError", message="Ray did not start", code="ray_did_not_start")
    sys.exit(1)
if act == "crashes":
    sys.exit(9)
raylet = subprocess.Popen(["sleep", "600"], start_new_session=True)
(folder / "raylets").open("a").write(f"{raylet.pid}\\n")
parent.tell(report="starting Ray")
parent.tell(address=f"127.0.0.1:{ray.name}")
parent.tell(up=True)
while not stopping.is_asked:
    if (folder / "lose").exists():
        parent.tell(lost=(folder / "lose").read_text())
        (folder / "lose").unlink()
    time.sleep(0.01)
raylet.kill()
"""


class Cluster:
    """A supervisor over the script, with what it reported; the script does what ``acts`` says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.acts = folder, folder / "acts"
        self.acts.write_text("serves")
        self.said: list[str] = []
        command = [sys.executable, "-c", ACTS, str(self.acts)]
        self.supervisor = ClusterSupervisor(Path("c.yaml"), folder, self.said.append, lambda: self.spared, command)
        self.spared = descendants(os.getpid())  # of other tests: all that is not spared is ended

    def act(self, what: str) -> None:
        """Have the script do this when it starts the next time."""
        self._write(self.acts, what)

    def lose(self, what: str) -> None:
        """Have the script tell that this is lost."""
        self._write(self.folder / "lose", what)

    def _write(self, file: Path, text: str) -> None:
        """Write a file that a script waits for, which must never find it empty."""
        new = self.folder / "new"
        new.write_text(text)
        new.replace(file)

    @property
    def raylets(self) -> list[int]:
        """The processes that the script has started so far, by id."""
        return [int(line) for line in (self.folder / "raylets").read_text().split()]

    def until(self, is_true: Callable[[], bool]) -> list[str]:
        """Let the supervisor go on, as the server does; returns what was lost meanwhile."""
        limit, lost = time.monotonic() + 60, []
        while not is_true():
            assert time.monotonic() < limit
            if gone := self.supervisor.lost():
                lost.append(gone)
                self.supervisor.start_another()
            time.sleep(0.02)
        return lost


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Nothing runs yet."""
    return Cluster(tmp_path)


def started(cluster: Cluster) -> Cluster:
    """Its nodes run."""
    cluster.supervisor.start()
    cluster.supervisor.wait_for_address(StopSignal())
    cluster.supervisor.wait_until_up(StopSignal())
    return cluster


def test_what_is_lost_is_replaced_and_nothing_of_it_is_left(cluster: Cluster) -> None:
    """Its processes are ended, also those that have lost their parent, its folder is gone, the next address is told."""
    supervisor = started(cluster).supervisor
    bystander = subprocess.Popen(["sleep", "600"])
    cluster.spared.append(bystander.pid)
    try:
        assert supervisor.address_file.read_text() == "127.0.0.1:ray"
        cluster.lose("raylet")
        assert cluster.until(lambda: len(cluster.said) > 1 and supervisor.is_up) == ["raylet"]
        assert supervisor.address_file.read_text() == "127.0.0.1:ray1"
        assert [is_alive(pid) for pid in cluster.raylets] == [False, True]
        assert not (cluster.folder / "ray").exists()
        assert is_alive(bystander.pid)
        assert not supervisor.is_restarting
        assert cluster.said[-1].startswith("Ray and the nodes are back after ")
    finally:
        supervisor.stop()
        assert not any(is_alive(pid) for pid in cluster.raylets)
        bystander.kill()
        bystander.wait()


def test_a_process_that_is_killed_is_replaced_too(cluster: Cluster) -> None:
    """It cannot tell; what it had started is ended."""
    supervisor = started(cluster).supervisor
    try:
        assert supervisor._child is not None
        os.kill(supervisor._child.pid, signal.SIGKILL)
        lost = cluster.until(lambda: len(cluster.raylets) == 2 and supervisor.is_up)
        assert lost == ["its process"]
        assert [is_alive(pid) for pid in cluster.raylets] == [False, True]
    finally:
        supervisor.stop()


def test_ray_is_started_again_until_it_comes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it does not, there is no address, and nobody is told that it is up."""
    monkeypatch.setattr("lego_serve.supervision.cluster_supervisor.RETRY_S", (0.05,))
    supervisor = started(cluster).supervisor
    try:
        cluster.act("refuses")
        cluster.lose("gcs_server")
        cluster.until(lambda: supervisor._number >= 3)
        assert (supervisor.is_up, supervisor.is_joined, supervisor.is_restarting) == (False, False, True)
        assert not supervisor.address_file.exists()
        cluster.act("serves")
        cluster.until(lambda: supervisor.is_up)
        assert supervisor.address_file.exists()
    finally:
        supervisor.stop()


def test_at_the_first_start_an_error_is_raised_as_it_was(cluster: Cluster) -> None:
    """Whoever starts a server is told what is wrong, and it does not try again."""
    cluster.act("refuses")
    cluster.supervisor.start()
    with pytest.raises(ConfigError, match="no such model"):
        cluster.supervisor.wait_for_address(StopSignal())
    cluster.supervisor.stop()


def test_a_ray_that_is_too_slow_to_start_is_started_again(cluster: Cluster) -> None:
    """Three times in all; then whoever starts the server is told."""
    cluster.act("slow")
    cluster.supervisor.start()
    assert cluster.supervisor.wait_for_address(StopSignal()) == "127.0.0.1:ray2"
    cluster.supervisor.stop()


def test_a_ray_that_never_starts_is_an_error(cluster: Cluster) -> None:
    """With what Ray said of it; the word is the one that the process uses."""
    cluster.act("never")
    cluster.supervisor.start()
    with pytest.raises(NodeError, match="did not start") as raised:
        cluster.supervisor.wait_for_address(StopSignal())
    assert raised.value.code == RAY_DID_NOT_START == deploy.RAY_DID_NOT_START
    cluster.supervisor.stop()


def test_a_process_that_ends_without_a_word_is_told_by_its_status(cluster: Cluster) -> None:
    """What it said stands on the terminal."""
    cluster.act("crashes")
    cluster.supervisor.start()
    with pytest.raises(NodeError, match="ended with status 9"):
        cluster.supervisor.wait_for_address(StopSignal())
    cluster.supervisor.stop()


def test_a_stop_is_heard_while_ray_starts(cluster: Cluster) -> None:
    """At once."""
    stopping = StopSignal()
    stopping._note(signal.SIGTERM, None)
    cluster.supervisor.start()
    with pytest.raises(Stopped):
        cluster.supervisor.wait_until_up(stopping)
    cluster.supervisor.stop()


def test_requests_may_finish_only_without_the_gcs() -> None:
    """Replicas live on for a while then; without their raylet they do not."""
    assert lets_requests_finish("gcs_server")
    assert not lets_requests_finish("raylet")
