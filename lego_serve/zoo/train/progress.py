"""Shared code of the training stages: a progress bar, resumable state, cached tensors, the device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn

SAVE_EVERY = 100


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that an interrupted write never replaces a good one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the state written last, or None; tensors and plain values only."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def is_save_due(step: int, steps: int) -> bool:
    """Return whether the state is saved after this step: every SAVE_EVERY steps and after the last."""
    return (step + 1) % SAVE_EVERY == 0 or step + 1 == steps


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A model under training with its optimizers, and the moving average of its weights where one is kept."""

    path: Path
    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    average: dict[str, torch.Tensor] | None = None

    def resume(self) -> int:
        """Load what was saved, if anything, and return the step to go on from."""
        state = load_state(self.path)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            for name, value in self.average.items():
                value.copy_(state["average"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step: int = state["step"]
        return step

    def save_if_due(self, step: int, steps: int) -> None:
        """Save after every SAVE_EVERY steps and after the last."""
        if is_save_due(step, steps):
            average = {} if self.average is None else {"average": self.average}
            optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
            state = {"model": self.model.state_dict(), **average, "optimizers": optimizers, "step": step + 1}
            save_state(self.path, state)


def cached_tensors(path: Path, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, which is made first where there is none."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        save_file(make(), partial)
        partial.replace(path)
    return load_file(path)


def iterations(title: str, start: int, stop: int, report: Callable[[], str]) -> Iterator[int]:
    """Yield the iterations behind a progress bar that shows what ``report`` returns."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=stop, completed=start)
        for index in range(start, stop):
            yield index
            progress.update(task, advance=1, description=f"{title} {report()}")
            if not progress.console.is_terminal and (index + 1) % 50 == 0:
                print(f"{title} {index + 1}/{stop} {report()}", flush=True)


def recent(losses: Sequence[float], count: int = 50) -> str:
    """Return the mean of the last losses in words, for a progress bar."""
    return f"loss {sum(losses[-count:]) / len(losses[-count:]):.4f}"
