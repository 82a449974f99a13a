"""The processes below a process."""

import os
import subprocess
import sys

from lego_serve.process.tree import descendants, is_alive

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


def test_children_and_their_children_are_found_until_they_end() -> None:
    """A process that has ended is neither below another nor alive, even if its parent has not waited for it."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        assert {parent.pid, grandchild} <= set(descendants(os.getpid()))
        assert descendants(parent.pid) == [grandchild]
        assert is_alive(parent.pid)
        assert is_alive(grandchild)
        parent.stdin.write("\n")
        parent.stdin.close()
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(parent.pid)
        assert not is_alive(grandchild)
    assert parent.pid not in descendants(os.getpid())
