"""``lego-serve adapters list | profile``: the adapters of a running server, and how late one may come."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lego_serve import config
from lego_serve.errors import ConfigError, LegoError
from lego_serve.plans import adapter_roots, model_spec

app = typer.Typer(no_args_is_help=True, help="List adapters (LoRA), and measure how late one may come.")
PROMPTS = (
    "a large red circle on the left, blue background",
    "a small yellow triangle above a large green square, white background",
    "a large black cross in the center, white background",
)


@app.command()
def profile(
    name: str,
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; configs/tiny.yaml if none.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, where several have adapters.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompts to measure with.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each prompt.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Steps of an image.")] = 20,
    size: Annotated[int, typer.Option(min=16, help="Its width and height.")] = 128,
) -> None:
    """Measure after how many steps an adapter has changed an image too much to be late, and write its profile."""
    settings = config.load(config_path or config.default_config())
    chosen = _model(settings, model)
    said = settings.models[chosen].adapters
    roots = adapter_roots(settings.models[chosen])
    from lego_serve.engine.adapter_profile import profile as measure
    from lego_serve.engine.local import LocalFamily
    from lego_serve.models.adapter_file import find_adapter
    from lego_serve.models.adapter_loading import base_layers, load_adapter

    spec = model_spec(settings, chosen)
    adapter = load_adapter(name, find_adapter(name, roots), base_layers(spec))
    family = LocalFamily.load(spec)
    found = measure(family, adapter, prompt or PROMPTS, range(seeds), steps=steps, size=size)
    folder = Path(said.profiles).expanduser() if said and said.profiles else _root_of(name, roots)
    path = folder / f"{name}.profile.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.content(), indent=1) + "\n")
    except OSError as error:
        raise LegoError(f"{path}: cannot be written: {error.strerror}") from None
    late = found.first_step
    words = "never falls" if late is None else f"falls after step {late} of {steps}"
    typer.echo(
        f"{path}: the similarity {words} under {found.limit}; {found.ratio:.0%} of the steps may pass without it"
    )


def table_of(cards: list[dict[str, Any]]) -> Table:
    """The adapters a server lists."""
    table = Table("adapter", "model", "registered")
    for card in cards:
        table.add_row(card["id"], card["model"], "yes" if card["registered"] else "no")
    return table


def _model(settings: config.Settings, wanted: str | None) -> str:
    having = [name for name, model in settings.models.items() if adapter_roots(model) and wanted in (None, name)]
    if len(having) != 1:
        raise ConfigError("name one `--model` that has adapters" if having else "no such model has `adapters`")
    return having[0]


def _root_of(name: str, roots: tuple[Path, ...]) -> Path:
    return next(root for root in roots if (root / name).is_dir() or (root / f"{name}.safetensors").exists())
