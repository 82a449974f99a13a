"""The first process of a machine: who is ended when, and in which order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lego_serve.cluster.node import run_node
from lego_serve.errors import ConfigError
from lego_serve.process.tree import is_alive

ROOT = Path(__file__).parents[2]
NODE = """
import os, sys
from lego_serve.cluster.node import Node
code, stop_s = sys.argv[1:3], float(sys.argv[3])
commands = {name: [sys.executable, "-c", text] for name, text in zip(("Ray", "gateways"), code)}
sys.exit(Node(commands, {"gateways": stop_s, "Ray": stop_s}, lambda line: os.write(1, line.encode() + b"\\n")).run())
"""
TELLS = """
import os, signal, sys, time
def end(*_):
    os.write(1, b"{name} ends\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
os.write(1, b"{name} runs\\n")
time.sleep(60)
"""


def node(ray: str, gateways: str, stop_s: float = 60) -> "subprocess.Popen[str]":
    """A node over two pieces of Python in the place of its commands."""
    command = [sys.executable, "-c", NODE, ray, gateways, str(stop_s)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    """The next lines that it prints."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def test_gateways_end_before_ray() -> None:
    """A signal ends both well, whatever else it does to them."""
    process = node(TELLS.format(name="Ray"), TELLS.format(name="gateways"))
    assert sorted(lines(process, 2)) == ["Ray runs", "gateways runs"]
    process.send_signal(signal.SIGTERM)
    assert lines(process, 3) == ["stopping", "gateways ends", "Ray ends"]
    assert process.wait(60) == 0


@pytest.mark.parametrize("ends", ["Ray", "gateways"])
def test_the_end_of_one_is_the_end_of_all(ends: str) -> None:
    """With its status, so that whoever runs containers starts a new one."""
    code = [TELLS.format(name=name) if name != ends else "raise SystemExit(7)" for name in ("Ray", "gateways")]
    process = node(*code)
    said = process.communicate(timeout=60)[0].splitlines()
    assert f"{ends} ended with status 7" in said
    assert process.returncode == 7


def test_who_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """And a process that somebody else left behind is no trouble."""
    pid = tmp_path / "pid"
    stubborn = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "import os; os.write(1, b'stubborn\\n'); time.sleep(60)"
    )
    process = node(stubborn, TELLS.format(name="gateways"), 0.3)
    lines(process, 2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert "Ray did not end within 0 s and is killed" in said
    for _ in range(1200):
        if not is_alive(int(pid.read_text())):
            break
        time.sleep(0.05)
    else:
        os.kill(int(pid.read_text()), signal.SIGKILL)
        pytest.fail("its child goes on")


def test_what_cannot_run_is_said_in_one_line(tmp_path: Path) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigError, match="there is no program rey"):
        run_node(None, 0, ["rey", "start"], print)
    with pytest.raises(ConfigError, match="gateways need `--config`"):
        run_node(None, 1, ["true"], print)
