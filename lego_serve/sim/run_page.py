"""The report of one trace under one or several policies."""

from collections.abc import Mapping, Sequence
from typing import Any

from lego_serve.sim.charts import Point, bars, gantt, lines
from lego_serve.sim.cluster import Residence, Setting
from lego_serve.sim.page import Section, page, table
from lego_serve.sim.run import Outcome
from lego_serve.sim.workload import Request

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
SHOWN_MODELS = 7


def run_page(
    title: str, setting: Setting, requests: Sequence[Request], runs: Runs, shown: Mapping[str, Outcome], window_s: float
) -> str:
    """The whole document: attainment over rate, latency, classes, a window of the GPUs, and the models on them."""
    words = f"{len(requests)} requests on {setting.gpus} GPUs, SLO {setting.slo_scale:g} times the latency alone"
    sections = [
        Section("Served in time over rate", "The band is the bootstrap's 95 % interval.", _attainment(runs)),
        Section("Latency", "Share of images that took at most so long.", _latency(shown)),
        Section("Served in time, at the trace's own rate", "The line is 90 %.", _shares(runs)),
        Section("By workflow", "At the trace's own rate.", _classes(runs)),
    ]
    for name, outcome in shown.items():
        end_s = min(window_s, max((span.end_s for span in outcome.spans), default=window_s))
        sections.append(
            Section(f"GPUs under {name}", "From the start.", gantt(outcome.spans, setting.gpus, 0.0, end_s))
        )
        chart = residency(outcome.residences, end_s)
        sections.append(Section(f"Models under {name}", "Copies over time, of the models that moved most.", chart))
    sections.append(Section("Reasons", "Why requests were not served.", _reasons(runs)))
    return page(f"Simulation of {title}", words, sections)


def _attainment(runs: Runs) -> str:
    series = {
        name: sorted(Point(row["rate"], row["attainment"], *row["attainment_95"]) for row in rows)
        for name, rows in runs.items()
    }
    bound = {row["rate"]: row["bound"]["best batch"] for rows in runs.values() for row in rows}
    series["bound"] = [Point(rate, share) for rate, share in sorted(bound.items())]
    if len(bound) < 2:
        return ""
    return lines(series, "requests a second", "share served in time", mark_y=0.9)


def _latency(shown: Mapping[str, Outcome]) -> str:
    series = {}
    for name, outcome in shown.items():
        latencies = outcome.latencies()
        if latencies:
            picked = range(0, len(latencies), max(1, len(latencies) // 100))
            series[name] = [Point(latencies[i], (i + 1) / len(latencies)) for i in picked]
    return lines(series, "seconds", "share", steps=True)


def _shares(runs: Runs) -> str:
    values = {name: Point(0.0, rows[0]["attainment"], *rows[0]["attainment_95"]) for name, rows in runs.items()}
    return bars(values, "share served in time", mark_y=0.9)


def _classes(runs: Runs) -> str:
    names = sorted({name for rows in runs.values() for name in rows[0]["by_class"]})
    rows = [[name, *(f"{by[0]['by_class'].get(name, 0.0):.1%}" for by in runs.values())] for name in names]
    return table(["workflow", *runs], rows)


def _reasons(runs: Runs) -> str:
    rows = [[name, reason, count] for name, by in runs.items() for reason, count in by[0]["reasons"].items()]
    return table(["policy", "reason", "requests"], rows) if rows else ""


def residency(residences: Sequence[Residence], end_s: float) -> str:
    """Copies of models over time, of those that changed most."""
    changes: dict[str, list[tuple[float, int]]] = {}
    for each in residences:
        changes.setdefault(each.model, []).append((each.at_s, each.change))
    moved = sorted(changes, key=lambda model: (-len(changes[model]), model))[:SHOWN_MODELS]
    series = {}
    for model in sorted(moved):
        copies, points = 0, [Point(0.0, 0.0)]
        for at_s, change in changes[model]:
            copies += change
            points.append(Point(at_s, float(copies)))
        series[model] = [*points, Point(max(end_s, points[-1].x), float(copies))]
    return lines(series, "seconds", "copies", steps=True)
