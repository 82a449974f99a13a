"""What ``run``, ``replay`` and ``sweep`` share: a server, a result folder, and the numbers on the screen."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rich.table
import typer
from rich.console import Console

from loadgen.commands.failing import BAD_INPUT, NOT_JUDGED, WORSE, ended
from loadgen.runs.folder import RUN, describe, digest, write_result
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Mix, Posted, posted
from loadgen.runs.report import Result, write_reports
from loadgen.runs.session import NotAnsweredError, Objectives
from loadgen.runs.summary import summarise
from loadgen.runs.sweep import NotJudgedError
from loadgen.runs.tables import headline, tables
from loadgen.runs.target import Bench, Target, connected
from loadgen.traces.errors import TraceError
from loadgen.traces.record import Record
from loadgen.traffic import Arrivals


@dataclass(frozen=True, slots=True)
class Measuring:
    """A server, how its requests are made and judged, and where the result goes."""

    target: Target
    objectives: Objectives
    mix: Mix
    warm_up: int
    seed: int
    out: Path
    as_json: bool

    def say(self, line: str) -> None:
        """Report progress on stderr, so that JSON alone goes to stdout."""
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bench(self) -> Iterator[Bench]:
        """Yield the server under test; whatever ends the measurement early ends the command with one line."""
        try:
            with connected(self.target.open(), self.objectives, self.say) as bench:
                yield bench
        except NotAnsweredError as error:
            raise ended(str(error), WORSE) from None
        except NotJudgedError as error:
            raise ended(str(error), NOT_JUDGED) from None
        except (TraceError, ValueError) as error:
            raise ended(str(error), BAD_INPUT) from None

    def post(self, records: Sequence[Record]) -> list[Posted]:
        """Return the requests as this server gets them."""
        return posted(records, self.mix, self.seed)

    def finish(
        self, kind: str, options: Mapping[str, object], workload: str, summary: Mapping[str, object],
        outcomes: Sequence[Outcome] = (),
    ) -> None:  # fmt: skip
        """Write the result and its reports, and print the numbers."""
        config = describe(kind, options, workload)
        write_result(self.out, config, summary, outcomes)
        write_reports(self.out, [Result(self.out.name, config, summary, outcomes)])
        if self.as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            show(summary)
        self.say(f"{self.out / 'summary.json'}\n{self.out / 'report.html'}")


def show(summary: Mapping[str, object]) -> None:
    """Print the numbers of a run or a sweep."""
    console = Console()
    for value, text in headline(summary):
        console.print(f"[bold]{value}[/bold] {text}", highlight=False)
    for found in tables(summary):
        shown = rich.table.Table(*found.head, title=found.title, title_justify="left")
        for row in found.rows:
            shown.add_row(*row)
        console.print(shown)


def first_model(names: Sequence[str] | None, bench: Bench) -> list[str]:
    """Return the models to ask for: those named, else the first that the server lists.  Raises ValueError."""
    if names:
        return list(names)
    if not bench.models:
        raise ValueError("the server lists no models; name one by --model")
    return [bench.models[0]]


def run_load(
    measuring: Measuring, bench: Bench, records: Sequence[Record], arrivals: Arrivals, options: Mapping[str, object]
) -> None:
    """Warm up, run one load, and write its result."""
    requests = measuring.post(records)
    bench.warm_up(requests[: measuring.warm_up])
    outcomes = bench.run(requests, arrivals, f"{measuring.seed}/arrivals")
    summary: dict[str, object] = {"kind": RUN, **summarise(outcomes), "solo_s": bench.solo_s}
    due_s = [outcome.due_s for outcome in outcomes] if options.get("closed") is None else []
    workload = digest([request.record for request in requests], due_s)
    measuring.finish(RUN, options, workload, summary, outcomes)
    if summary["answered"] == 0:
        raise ended(f"no request was answered; the first: {summary['first_error']}", WORSE)
    client = summary["client"]
    if isinstance(client, dict) and client["is_late"]:
        measuring.say(
            f"beware: this machine sent requests up to {client['late_p99_s']:.3f} s late (99th percentile);"
            " it may be too busy to measure"
        )
