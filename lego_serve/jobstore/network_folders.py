"""Tells on what kind of file system a path lies, as Linux lists them."""

from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NETWORK_KINDS = ("nfs", "cifs", "smb", "ceph", "gluster", "lustre", "afs", "9p", "fuse.sshfs", "beegfs", "gpfs")


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the kind of file system that a path lies on, or would; empty where nobody says."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    target = path.resolve()
    kinds = {Path(_unescaped(point)): kind for _, point, kind, *_ in (line.split() for line in lines)}
    return next((kinds[folder] for folder in (target, *target.parents) if folder in kinds), "")


def is_network(kind: str) -> bool:
    """Whether processes on such a file system may run on different machines, without memory in common."""
    return kind.startswith(NETWORK_KINDS)


def _unescaped(point: str) -> str:
    return point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
