"""What one attack came to, and the table of all of them.  Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.hostile.wire import OPEN, UNANSWERED

RESULTS = "## Results"
COLUMNS = (
    "attack", "version", "answered", "after", "sent", "longest wait of `/health/live`", "of a generation",
    "processor", "memory before, at its peak, after",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack came to: its answers and the seconds until the last, and what others and the gateway bore.

    ``failed``: probes that got no good answer.  ``rss``: bytes before, at the peak and some seconds after; None where
    the process is not known.  ``was_replaced``: the gateway did not answer afterwards, or its process had ended.
    """

    attack: str
    version: str
    answers: Mapping[str, int]
    seconds: float
    sent: int
    health_s: float
    generation_s: float
    failed: int
    processor_s: float | None
    rss: tuple[int, int, int | None] | None
    was_replaced: bool


def answered(answers: Mapping[str, int]) -> str:
    """Say how an attack's connections were answered, the most frequent answer first."""
    counts = Counter(answers).most_common()
    return counts[0][0] if sum(answers.values()) == 1 else ", ".join(f"{count:,} x {name}" for name, count in counts)


def after(outcome: Outcome) -> str:
    """Say when the last connection was answered or closed: never, where one was not."""
    is_over = not {OPEN, UNANSWERED} & set(outcome.answers)
    return f"{outcome.seconds:.1f} s" if is_over else f"not within {outcome.seconds:.0f} s"


def row(outcome: Outcome) -> tuple[str, ...]:
    """Return an outcome's cells."""
    wait = f"{outcome.generation_s:.2f} s" + (f", {outcome.failed:,} failed" if outcome.failed else "")
    memory = "-" if outcome.rss is None else ", ".join(_megabytes(rss) for rss in outcome.rss) + " MB"
    return (
        outcome.attack, outcome.version, answered(outcome.answers), after(outcome), f"{outcome.sent / 1e6:.1f} MB",
        f"{outcome.health_s:.2f} s", wait, "-" if outcome.processor_s is None else f"{outcome.processor_s:.1f} s",
        memory + ("; replaced" if outcome.was_replaced else ""),
    )  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table with a row for each attack and version."""
    rows = (COLUMNS, ("---",) * len(COLUMNS), *(row(outcome) for outcome in outcomes))
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


def with_results(page: str, results: str) -> str:
    """Return a page whose part under the heading of results, which is its last, is another."""
    return page.partition(RESULTS + "\n")[0] + f"{RESULTS}\n\n{results}"


def _megabytes(count: int | None) -> str:
    return "ended" if count is None else f"{count / 1e6:,.0f}"
