"""A server whose gateways cannot start says so at once, with how they ended."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lego_serve import app
from lego_serve.errors import ConfigError, LegoError
from lego_serve.process.signals import StopSignal
from lego_serve.process.sockets import shared_socket
from lego_serve.process.supervisor import Supervisor
from lego_serve.served_workflows import configured
from lego_serve.supervision.cluster_supervisor import ClusterSupervisor

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
DIES = """import os, sys
if "lego_serve.gateway_process" in sys.orig_argv:
    print("nothing to be had", file=sys.stderr)
    os._exit(7)
"""


class NoCluster(ClusterSupervisor):
    """A cluster that is there, as far as its supervisor knows."""

    def start(self) -> None:
        """At once."""
        self.address_file.write_text("127.0.0.1:1")
        self.is_up = True


def supervisor(*words: str, count: int = 2) -> Supervisor:
    """Over processes that run some Python."""
    return Supervisor(lambda: [sys.executable, "-c", *words], count, lambda pid: None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal SIGKILL"),
        ("pass", "ended with exit status 0"),
    ],
)
def test_a_gateway_that_ends_before_it_is_ready_is_told_with_its_status(code: str, message: str) -> None:
    """Whatever the reason; while they run there is nothing to tell."""
    gateways = supervisor(code)
    gateways.start()
    for pid in gateways.pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(LegoError, match=message):
        gateways.check()
    gateways.shut_down()
    alive = supervisor("import time; time.sleep(60)")
    alive.start()
    try:
        alive.check()
    finally:
        alive.shut_down()


def test_waiting_for_gateways_ends_with_the_first_that_dies(tmp_path: Path) -> None:
    """Of two, one of which goes on without ever answering: not after the minute that slow ones have."""
    one_dies = f"import os, time\ntry: os.mkdir({str(tmp_path / 'first')!r})\nexcept FileExistsError: time.sleep(60)"
    gateways = supervisor(one_dies)
    gateways.start()
    started = time.monotonic()
    try:
        with pytest.raises(LegoError, match="exit status 0"):
            app.wait_ready([tmp_path / "none.sock"], StopSignal(), gateways.check)
    finally:
        gateways.shut_down()
    assert time.monotonic() - started < 30


def test_a_server_whose_gateways_die_ends_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the configuration on, but for the nodes; its output stands above the line that names its end."""
    (tmp_path / "sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # it is set for the gateways, and put back here
    for name in ("RAY_ENABLE_AUTO_CONNECT", *app.THREAD_ENVIRONMENT):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # set for all that it starts, and put back here
    monkeypatch.setattr(app, "ClusterSupervisor", NoCluster)
    monkeypatch.setattr(app, "keep_ray_to_this_machine", lambda: None)
    config, (settings, workflows) = tmp_path / "config.yaml", configured(TINY)
    config.write_text(TINY.read_text())
    server = settings.server.model_copy(update={"port": 0, "data": str(tmp_path / "data")})
    lines: list[str] = []
    made: list[Path] = []
    make = tempfile.mkdtemp

    def note(*words: str, **more: str) -> str:
        made.append(Path(make(*words, **more)))
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", note)
    started = time.monotonic()
    with pytest.raises(LegoError, match="a gateway process ended with exit status 7 before it was ready"):
        app._serve(config, settings.model_copy(update={"server": server}), workflows, StopSignal(), lines.append)
    assert time.monotonic() - started < 30
    assert "nothing to be had" in capfd.readouterr().err
    assert not [line for line in lines if line.startswith("ready")]
    assert [folder.name[:5] for folder in made] == ["lego-"]
    assert not (made[0] / "gateways").exists()


def test_a_gateway_that_cannot_listen_says_so_in_one_line() -> None:
    """As the command line does, not by a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            shared_socket("127.0.0.1", port)
    done = subprocess.run(
        [sys.executable, "-m", "lego_serve.gateway_process", "none.yaml", "127.0.0.1:1", "0", "."],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip().splitlines()) == (1, [done.stderr.strip()])
    assert done.stderr.startswith("error: none.yaml: cannot be read")


def test_gateways_that_end_later_are_replaced() -> None:
    """Once all have been ready the others go on, so nothing is raised."""
    ended: list[int] = []
    gateways = Supervisor(lambda: [sys.executable, "-c", "import time; time.sleep(60)"], 1, ended.append)
    gateways.start()
    [first] = gateways.pids
    os.kill(first, signal.SIGKILL)
    try:
        gateways.watch(lambda: bool(ended))
        assert ended == [first]
        assert gateways.pids != [first]
        gateways.check()
    finally:
        gateways.shut_down()


def test_a_gateway_whose_remains_cannot_be_cleared_away_is_replaced_all_the_same() -> None:
    """The others serve on, and so does the server."""
    ended: list[int] = []

    def fail(pid: int) -> None:
        ended.append(pid)
        raise OSError("the disk is read only")

    gateways = Supervisor(lambda: [sys.executable, "-c", "import time; time.sleep(60)"], 1, fail)
    gateways.start()
    [first] = gateways.pids
    os.kill(first, signal.SIGKILL)
    try:
        gateways.watch(lambda: bool(ended))
        assert (ended, len(gateways.pids)) == ([first], 1)
        gateways.check()
    finally:
        gateways.shut_down()
