"""``python -m loadgen``: load tests, traces, and comparisons of a running server."""

import typer

from loadgen.commands.compare import compare
from loadgen.commands.compare_results import diff, report
from loadgen.commands.mock import mock_server
from loadgen.commands.run import replay, run
from loadgen.commands.sweep import sweep
from loadgen.commands.trace import trace

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
for command in (run, sweep, replay, diff, report, compare):
    app.command()(command)
app.command(name="mock-server")(mock_server)
app.add_typer(trace, name="trace")

if __name__ == "__main__":
    app()
