"""Finds the processes below a process, through Linux's `/proc`."""

import os
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Return the ids of the processes started by a process, directly or not."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                parents[int(entry)] = int(fields[1])
    below: list[int] = []
    generation = [root]
    while generation:
        generation = [pid for pid, parent in parents.items() if parent in generation]
        below += generation
    return below


def children(root: int) -> list[int]:
    """Return the ids of the processes whose parent is this one."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _parent(int(entry)) == root]


def command_of(pid: int) -> str:
    """Return the name of a process's program, cut to 15 characters; empty where it has ended."""
    try:
        return Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _parent(pid: int) -> int:
    """Return the id of a process's parent; 0 where it has ended."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state and parent on, empty if it has ended."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return []
    return stat.rpartition(")")[2].split()
