"""``python -m loadgen``: load tests, traces, and comparisons of a running server."""

import typer

from loadgen.commands.compare import compare
from loadgen.commands.mock import mock_server
from loadgen.commands.trace import trace

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
app.command()(compare)
app.command(name="mock-server")(mock_server)
app.add_typer(trace, name="trace")

if __name__ == "__main__":
    app()
