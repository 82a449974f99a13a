"""``lego-serve tune``: finds how much of a model's work is enough, and what less costs."""

import typer

from lego_serve.cli.tune.grid import tune_grid
from lego_serve.cli.tune.prune import tune_prune
from lego_serve.cli.tune.quality import tune_quality
from lego_serve.cli.tune.sparse24 import tune_sparse24

app = typer.Typer(no_args_is_help=True, help="Tune the tiers of a model: fewer evaluations, nearly the same images.")
app.command("grid")(tune_grid)
app.command("quality")(tune_quality)
app.command("prune")(tune_prune)
app.command("sparse24")(tune_sparse24)
