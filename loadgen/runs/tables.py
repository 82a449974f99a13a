"""The tables of a result, the same in the terminal, in markdown and in HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.runs.folder import SWEEP

NUMBERS = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")
CLOCKS = (
    ("latency", "from when due"),
    ("service", "from when sent"),
    ("waited", "with the unanswered, which waited to the end"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its title, its head, and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a run's or a sweep's summary."""
    return _sweep_tables(summary) if summary.get("kind") == SWEEP else _run_tables(summary)


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few numbers that come first, each with its label."""
    if summary.get("kind") == SWEEP:
        limit = summary["limit"]
        bound = "" if limit["is_bracketed"] else " (a bound: no rate was found on its other side)"
        return [
            (f"{limit['rate_rps']:.3g} /s", f"highest rate at {summary['target']:.0%} in time{bound}"),
            (f"{limit['low_rps']:.3g} to {limit['high_rps']:.3g}", "95 % confidence interval, 1/s"),
            (str(len(summary["trials"])), "trials"),
        ]
    latency = summary["latency"] or {}
    return [
        (share(summary["attainment"]), "within the objective"),
        (number(latency.get("p95_s"), " s"), "95th percentile from when due"),
        (number(summary["goodput_rps"], " /s"), "answered in time"),
        (f"{summary['answered']} of {summary['requests']}", "requests answered"),
    ]


def share(value: float | None) -> str:
    """Return a share in per cent."""
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, unit: str = "") -> str:
    """Return a number of three figures or more."""
    return "-" if value is None else f"{value:.4g}{unit}"


def _run_tables(summary: Mapping[str, Any]) -> list[Table]:
    found = [
        Table(
            "Rates",
            ("", "1/s"),
            [
                ["offered", number(summary["offered_rps"])],
                ["answered", number(summary["throughput_rps"])],
                ["answered in time", number(summary["goodput_rps"])],
            ],
        ),
        Table(
            "Seconds",
            ("", *(name.removesuffix("_s") for name in NUMBERS)),
            [
                [f"{clock}, {words}", *(number((summary[clock] or {}).get(name)) for name in NUMBERS)]
                for clock, words in CLOCKS
            ],
        ),
    ]
    head = ("", "requests", "answered", "in time", "p50 s", "p95 s")
    for title, key in (("By workflow", "by_workflow"), ("By kind", "by_kind"), ("By size", "by_size")):
        groups: Mapping[str, Mapping[str, Any]] = summary[key]
        if len(groups) > 1:
            found.append(Table(title, head, [_group_row(name, group) for name, group in groups.items()]))
    found.append(
        Table("Answers", ("status", "requests"), [[_status(k), str(v)] for k, v in summary["statuses"].items()])
    )
    return found


def _group_row(name: str, group: Mapping[str, Any]) -> list[str]:
    numbers = [str(group["requests"]), str(group["answered"]), share(group["attainment"])]
    return [name, *numbers, number(group["p50_s"]), number(group["p95_s"])]


def _status(status: str) -> str:
    return "no connection" if status == "0" else status


def _sweep_tables(summary: Mapping[str, Any]) -> list[Table]:
    head = ("rate, 1/s", "repeat", "requests", "in time", "p50 s", "p95 s", "sent late, p99 s")
    rows = []
    for trial in sorted(summary["trials"], key=lambda each: (each["rate_rps"], each["repeat"])):
        latency = trial["latency"] or {}
        rows.append(
            [
                number(trial["rate_rps"]),
                str(trial["repeat"] + 1),
                str(trial["requests"]),
                share(trial["attainment"]),
                number(latency.get("p50_s")),
                number(latency.get("p95_s")),
                number(trial["client"]["late_p99_s"]),
            ]
        )
    return [Table("Trials", head, rows)]
