"""What the training stages share: a progress bar, resumable state, the device."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SAVE_EVERY = 100


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that an interrupted write never replaces a good one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state written last, or None; tensors and plain values only."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def iterations(title: str, start: int, stop: int, report: Callable[[], str]) -> Iterator[int]:
    """Count iterations behind a progress bar that shows what ``report`` says."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=stop, completed=start)
        for index in range(start, stop):
            yield index
            progress.update(task, advance=1, description=f"{title} {report()}")
            if not progress.console.is_terminal and (index + 1) % 50 == 0:
                print(f"{title} {index + 1}/{stop} {report()}", flush=True)


def recent(losses: Sequence[float], count: int = 50) -> str:
    """The mean of the last losses in words, for a progress bar."""
    return f"loss {sum(losses[-count:]) / len(losses[-count:]):.4f}"
