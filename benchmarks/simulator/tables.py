"""A table of results, as Markdown and as a part of the HTML report; and results kept between runs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = ("lego_serve/core/cluster", "lego_serve/sim", "benchmarks/simulator", "configs/clusters")


@dataclass(frozen=True, slots=True)
class Result:
    """A table, what it says of the target, and charts for the report (title, words, SVG)."""

    title: str
    words: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    verdicts: Sequence[str] = ()
    charts: Sequence[tuple[str, str, str]] = field(default_factory=tuple)

    def markdown(self) -> str:
        """The table as the page in docs/benchmarks has it."""
        lines = [f"## {self.title}", "", self.words, "", f"| {' | '.join(self.head)} |", "|---" * len(self.head) + "|"]
        lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in self.rows]
        if self.verdicts:
            lines += ["", *(f"- {each}" for each in self.verdicts)]
        return "\n".join([*lines, ""])


class Kept:
    """Numbers of earlier runs of the same code, in a folder; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._code = _digest_of_sources() if folder is not None else ""

    def __call__(self, key: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """Return the value of a key, which can be JSON, making it from the arguments if it is not there."""
        if self._folder is None:
            return make(*arguments)
        name = hashlib.sha256(f"{self._code} {key}".encode()).hexdigest()[:24]
        path = self._folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())["value"]
        value = make(*arguments)
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "value": value}))
        return json.loads(path.read_text())["value"]


def _digest_of_sources() -> str:
    hashed = hashlib.sha256()
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                hashed.update(file.read_bytes())
    return hashed.hexdigest()


def verdict(what: str, value: float, target: float, *, at_most: bool = False) -> str:
    """Whether a target is met, in words."""
    is_met = value <= target if at_most else value >= target
    bound = "at most" if at_most else "at least"
    return f"{what}: {value:.2f}, the target is {bound} {target:g}: {'met' if is_met else 'NOT met'}"
