"""Writes ``report.html``, which loads nothing from outside, and ``report.md`` of one or more results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from loadgen.reports.charts import Curve, plot
from loadgen.reports.page import STYLE
from loadgen.reports.parts import section, table, tiles
from loadgen.reports.timeline import timeline
from loadgen.runs.folder import CONFIG, SUMMARY, SWEEP, read_json
from loadgen.runs.outcome import FILE, Outcome, read_outcomes
from loadgen.runs.tables import Table, headline, tables
from loadgen.traces.errors import TraceError

COLOURS = 6
MOST_POINTS = 400  # of a curve
MET, MISSED, FAILED = "met", "missed", "failed"

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title</title><style>$style
:root { --c0:#d9482b; --c1:#2f6fb0; --c2:#3d8a4f; --c3:#8a5bb5; --c4:#b0802f; --c5:#5d6675 }
@media (prefers-color-scheme: dark) {
  :root { --c0:#ff7a5c; --c1:#6aa7e6; --c2:#6fc283; --c3:#bd93e6; --c4:#e0b060; --c5:#9aa5b5 } }
$colours
.met { fill:var(--c1); opacity:.6 } .missed { fill:var(--c0); opacity:.8 } .failed { fill:var(--ink) }
.key i { border-radius:50% } svg { overflow:visible } .numbers td { white-space:nowrap }
h1.part { margin-top:2.5rem }
</style></head><body><main>
<h1>$title</h1>
<p>$lead</p>
$body
</main></body></html>
""")


@dataclass(frozen=True, slots=True)
class Result:
    """A result folder's documents, and the outcomes of a run."""

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def is_sweep(self) -> bool:
        """Whether it is a search over rates."""
        return self.summary.get("kind") == SWEEP


def read_result(folder: Path) -> Result:
    """Read a result folder.  Raises TraceError where it is none."""
    config, summary = read_json(folder, CONFIG), read_json(folder, SUMMARY)
    outcomes = read_outcomes(folder) if (folder / FILE).is_file() else []
    result = Result(folder.name, config, summary, outcomes)
    try:
        headline(summary)
        tables(summary)
        if result.is_sweep and not all(set(trial["met"]) <= {"0", "1"} for trial in summary["trials"]):
            raise ValueError("`met` of a trial")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TraceError(
            folder / SUMMARY, f"is no summary of a run or a sweep: {error!r} is missing or wrong"
        ) from None
    return result


def write_reports(folder: Path, results: Sequence[Result]) -> None:
    """Write both reports of at least one result.  Raises TraceError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(html_report(results), encoding="utf-8")
        (folder / "report.md").write_text(markdown_report(results), encoding="utf-8")
    except OSError as error:
        raise TraceError(folder, error.strerror or "cannot be written") from None


def html_report(results: Sequence[Result]) -> str:
    """Return the page."""
    colours = "\n".join(
        f"svg .curve.c{n} {{ stroke:var(--c{n}) }} circle.c{n} {{ fill:var(--c{n}) }}" for n in range(COLOURS)
    )
    body = _together(results) if len(results) > 1 else ""
    body += "".join(_result(result, many=len(results) > 1) for result in results)
    names = ", ".join(result.name for result in results)
    return PAGE.substitute(
        title=escape(f"Load test: {names}"),
        style=STYLE,
        colours=colours,
        lead="<br>".join(f"<code>{escape(str(result.config.get('command', '')))}</code>" for result in results),
        body=body,
    )


def _result(result: Result, *, many: bool) -> str:
    prefix = f"{result.name}: " if many else ""
    heading = f'<h1 class="part">{escape(result.name)}</h1>' if many else ""
    cards = [f'{heading}<div class="tiles">{tiles(headline(result.summary))}</div>']
    if result.is_sweep:
        cards.append(section(f"{prefix}Share within the objective, by rate", _by_rate([result])))
    elif result.outcomes:
        cards.append(section(f"{prefix}Latency over time", _over_time(result.outcomes), _key()))
        cards.append(section(f"{prefix}Distribution of latency", _distribution([result])))
    cards += [section(prefix + found.title, _table(found)) for found in tables(result.summary)]
    cards.append(section(f"{prefix}Where and how", table((), _context(result))))
    return "\n".join(cards)


def _together(results: Sequence[Result]) -> str:
    """Return what shows all results of a kind in one chart."""
    runs, sweeps = [r for r in results if r.outcomes], [r for r in results if r.is_sweep]
    cards = []
    for title, members, chart in (
        ("Distribution of latency", runs, _distribution),
        ("Share within the objective, by rate", sweeps, _by_rate),
    ):
        if len(members) > 1:
            names = "".join(
                f'<i style="background:var(--c{index % COLOURS})"></i>{escape(result.name)}'
                for index, result in enumerate(members)
            )
            cards.append(section(title, chart(members), f'<span class="key">{names}</span>'))
    return "\n".join(cards)


def _over_time(outcomes: Sequence[Outcome]) -> str:
    kinds: dict[str, list[tuple[float, float]]] = {MET: [], MISSED: [], FAILED: []}
    for outcome in outcomes:
        kind = FAILED if not outcome.is_ok else MET if outcome.is_met else MISSED
        kinds[kind].append((outcome.due_s, outcome.latency_s))
    return timeline(kinds, "Seconds from when each request was due, by when it was due", "seconds from the start")


def _key() -> str:
    colours = ((MET, "var(--c1)"), (MISSED, "var(--c0)"), (FAILED, "var(--ink)"))
    dots = "".join(f'<i style="background:{colour}"></i>{kind}' for kind, colour in colours)
    return f'<span class="key">Seconds from when each request was due.{dots}</span>'


def _distribution(results: Sequence[Result]) -> str:
    curves = []
    for index, result in enumerate(results):
        latencies = sorted(outcome.latency_s for outcome in result.outcomes if outcome.is_ok)
        step = max(1, len(latencies) // MOST_POINTS)
        points = [(value, (rank + 1) / len(result.outcomes)) for rank, value in enumerate(latencies)]
        curves.append(Curve(f"c{index % COLOURS}", [*points[::step], *points[-1:]]))
    return plot(curves, "Share of all requests answered within so many seconds of when they were due", "seconds")


def _by_rate(results: Sequence[Result]) -> str:
    curves = []
    for index, result in enumerate(results):
        trials = sorted((trial["rate_rps"], trial["attainment"] or 0.0) for trial in result.summary["trials"])
        rates = sorted({rate for rate, _ in trials})
        means = [(rate, _mean([share for at, share in trials if at == rate])) for rate in rates]
        kind = f"c{index % COLOURS}"
        curves += [Curve(kind, means), Curve(kind, trials, dots=True)]
    target = results[0].summary["target"]
    return plot(curves, "Share of requests within the objective, by rate", "requests a second", mark=target)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(found: Table) -> str:
    rows = [[escape(cell) for cell in row] for row in found.rows]
    return f'<div class="numbers">{table([escape(cell) for cell in found.head], rows)}</div>'


def _context(result: Result) -> list[tuple[str, str]]:
    rows = []
    for name, value in result.config.items():
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        rows.append((escape(name), escape(text)))
    return rows


def markdown_report(results: Sequence[Result]) -> str:
    """Return the same numbers as markdown."""
    blocks = []
    for result in results:
        blocks.append(f"# {result.name}\n\n`{result.config.get('command', '')}`")
        blocks.append("\n".join(f"- {text}: **{value}**" for value, text in headline(result.summary)))
        for found in tables(result.summary):
            rows = [found.head, ["---"] * len(found.head), *found.rows]
            lines = "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
            blocks.append(f"## {found.title}\n\n{lines}")
        facts = ", ".join(f"{name} {result.config.get(name, '-')}" for name in ("commit", "date"))
        blocks.append(f"{facts}, {result.config.get('machine', {}).get('cpu', '')}")
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
