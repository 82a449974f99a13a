"""Processes forked from one that has imported their modules: as if Python had been started for each."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lego_serve.process.fork_server import ForkServer
from tests.support.processes import is_alive, state_of, wait_for

SLOW_MODULE = "import time; time.sleep(1)"
REPORT = """import json, os, sys
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "colour": os.environ.get("COLOUR"), "path": sys.path[0],
    "name": __name__, "is_preloaded": "preloaded_here" in sys.modules, "pid": os.getpid(), "parent": os.getppid(),
    "group": os.getpgid(0),
}))
print("an error", file=sys.stderr)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    """One that has imported a module of the test's, which takes a second."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "preloaded_here.py").write_text(SLOW_MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")]))
    server = ForkServer(tmp_path / "fork.sock", ["preloaded_here"])
    yield server
    server.stop()


def start(server: ForkServer, script: Path, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    """Start a script the way Ray starts a worker: through a shell, with the launcher in place of `python`."""
    command = f"exec {server.launcher} {script} {' '.join(arguments)}"
    return subprocess.Popen(["bash", "-c", command], stdout=-1, stderr=-1, text=True, **options)  # type: ignore[call-overload]


def write(tmp_path: Path, text: str) -> Path:
    """A script."""
    script = tmp_path / "script.py"
    script.write_text(text)
    return script


def test_a_fork_is_the_process_that_was_asked_for(server: ForkServer, tmp_path: Path) -> None:
    """Its arguments, environment, folder and streams; what comes before the modules are there waits for them."""
    script = write(tmp_path, REPORT)
    environment = os.environ | {"COLOUR": "red"}
    first, second = (start(server, script, "a", word, cwd=tmp_path, env=environment) for word in ("b", "'c d'"))
    reports = []
    for process in (first, second):
        out, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "an error\n")
        reports.append(json.loads(out))
    assert [report["arguments"] for report in reports] == [["a", "b"], ["a", "c d"]]
    for report in reports:
        assert (report["folder"], report["colour"], report["name"]) == (str(tmp_path), "red", "__main__")
        assert report["path"] == str(tmp_path)
        assert report["is_preloaded"]
        assert report["parent"] == server.pid
        assert report["group"] == report["pid"]  # Ray ends the process group of a worker that died


def test_a_process_ends_with_its_fork_and_the_other_way_round(server: ForkServer, tmp_path: Path) -> None:
    """Whoever ends first, by whatever: nothing of the two is left."""
    script = write(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    for ends_first in ("fork", "launcher"):
        launcher = start(server, script)
        assert launcher.stdout is not None
        fork = int(launcher.stdout.readline())
        os.kill(fork if ends_first == "fork" else launcher.pid, signal.SIGKILL)
        launcher.wait(60)
        wait_for(lambda fork=fork: not is_alive(fork))  # type: ignore[misc]
        launcher.communicate()


def test_a_fork_that_is_stopped_ends_with_its_launcher(server: ForkServer, tmp_path: Path) -> None:
    """It runs no code that could see the launcher end, so the kernel ends it."""
    script = write(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    launcher = start(server, script)
    assert launcher.stdout is not None
    fork = int(launcher.stdout.readline())
    os.kill(fork, signal.SIGSTOP)
    wait_for(lambda: state_of(fork) == "T")
    launcher.kill()
    launcher.wait(60)
    wait_for(lambda: not is_alive(fork))
    launcher.communicate()


def test_a_fork_ends_with_a_launcher_that_had_not_read_its_id(tmp_path: Path) -> None:
    """A busy machine may end the launcher before: its socket is then reset, not closed."""
    code = (
        "import socket, time\nfrom lego_serve.process import fork_server\n"
        "fork, launcher = socket.socketpair()\nfork.sendall(b'id')\nlauncher.close()\nfork_server._end_with(fork)\n"
    )
    assert (
        subprocess.run([sys.executable, write(tmp_path, code)], timeout=60, check=False).returncode == -signal.SIGKILL
    )


def test_signals_reach_the_fork(server: ForkServer, tmp_path: Path) -> None:
    """It may end in its own way."""
    code = "import signal, time\nsignal.signal(15, lambda *given: exit(print('the end')))\nprint(1, flush=True)\n"
    launcher = start(server, write(tmp_path, code + "time.sleep(60)"))
    assert launcher.stdout is not None
    launcher.stdout.readline()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.communicate(timeout=60)[0].strip() == "the end"


def test_a_signal_that_comes_before_the_fork_waits_for_it(server: ForkServer, tmp_path: Path) -> None:
    """Else it would end the launcher alone, and the fork with it by a signal that no process can handle."""
    launcher = start(server, write(tmp_path, "import time; time.sleep(60)"))
    wait_for(lambda: is_blocked(launcher.pid, signal.SIGTERM))
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 0  # it has seen the fork end


def is_blocked(pid: int, number: int) -> bool:
    """Whether a process has the delivery of a signal put off."""
    [mask] = re.findall(r"SigBlk:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_without_a_server_python_itself_is_started(tmp_path: Path) -> None:
    """Where it has ended, or ends while it imports."""
    script = write(tmp_path, REPORT)
    broken = ForkServer(tmp_path / "fork.sock", ["no.such.module"])
    early = start(broken, script, "early")
    wait_for(lambda: not is_alive(broken.pid))
    late = start(broken, script, "late")
    for process, word in ((early, "early"), (late, "late")):
        report = json.loads(process.communicate(timeout=60)[0])
        assert (report["arguments"], report["is_preloaded"]) == ([word], False)
        assert report["pid"] == process.pid
    broken.stop()


def test_forks_outlive_a_server_that_is_stopped(server: ForkServer, tmp_path: Path) -> None:
    """They are stopped by whoever has them started; the server ends with the process that started it."""
    script = write(tmp_path, "import os, sys; print(os.getpid(), flush=True); print(sys.stdin.readline())")
    process = start(server, script, stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    server.stop()
    assert not is_alive(server.pid)
    assert process.communicate("go on\n", timeout=60)[0].strip() == "go on"


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed."""
    code = (
        "import sys, time; from pathlib import Path; from lego_serve.process.fork_server import ForkServer\n"
        "print(ForkServer(Path(sys.argv[1]), []).pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "fork.sock")], stdout=-1, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert is_alive(pid)
    starter.kill()
    starter.communicate()
    wait_for(lambda: not is_alive(pid))


def test_what_replicas_import_leaves_one_thread_and_no_ray() -> None:
    """A fork has no other thread than the one that forks, and Ray reads a worker's environment when it is imported.

    Slow: no process that has imported anything else can tell, and what replicas import takes seconds.
    """
    code = (
        "import gc; gc.disable()\n"
        "import os, sys, lego_serve.serving.cluster.preloaded, torch\n"
        "print(len(os.listdir('/proc/self/task')), 'ray' in sys.modules, torch.cuda.is_initialized())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["1", "False", "False"]
