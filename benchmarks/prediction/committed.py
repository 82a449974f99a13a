"""When a file was committed as it is now; the only thing here that asks git."""

import subprocess
from pathlib import Path


def committed_at(path: Path) -> str | None:
    """Return the time of the last commit of a file, in ISO's form; None where it is in none or has changed since."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(path.parent), *words, "--", path.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    at = git("log", "-1", "--format=%cI")
    return at if at and not git("status", "--porcelain", "--ignored") else None
