"""Whether the simulator says beforehand what a suite measures: ``python -m benchmarks.prediction COMMAND``.

``calibrate`` and ``run`` start real servers, ``fit``, ``predict`` and ``compare`` none.
"""

import typer

from benchmarks.prediction.commands import calibrate, compare, fit, predict, run

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
for command in (calibrate, fit, predict, run, compare):
    app.command()(command)

if __name__ == "__main__":
    app()
