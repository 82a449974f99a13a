"""``lego-serve adapters list | show | register | remove | profile``: a server's adapters, and how late one may come."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lego_serve import config
from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, ask, quoted, say, show, text
from lego_serve.deployment import adapter_roots, model_spec, own_profiles, resolve_path
from lego_serve.errors import ConfigError, LegoError
from lego_serve.models.registry import profile_folder

app = typer.Typer(no_args_is_help=True, help="Adapters (LoRA): those of a server, and how late one may come.")
ROUTE = "/v1/admin/adapters"
OfModel = Annotated[str | None, typer.Option("--model", help="The model, where several have adapters.")]
PROMPTS = (
    "a large red circle on the left, blue background",
    "a small yellow triangle above a large green square, white background",
    "a large black cross in the center, white background",
)


@app.command("list")
def list_adapters(model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the adapters of a running server."""
    show(table_of(ask("GET", url + ROUTE + _query(model), key)["data"]))


@app.command("show")
def show_adapter(name: str, model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Show what is known of an adapter of a running server, which reads and checks it."""
    for about, value in ask("GET", f"{url}{ROUTE}/{quoted(name)}{_query(model)}", key).items():
        if about != "object":
            say(f"{about}: {_told(value)}")


@app.command()
def register(
    name: str,
    path: Annotated[str, typer.Argument(help="From one of the server's roots on, to a .safetensors file.")],
    model: OfModel = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Give a file under a root of a running server a name."""
    body = {"id": text(name), "path": text(path)} | ({} if model is None else {"model": model})
    card = ask("POST", url + ROUTE, key, body)
    say(f"{name}: registered for {card['model']}, rank {card['rank']}, {card['bytes']} bytes")


@app.command()
def remove(name: str, model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Take back a name that was registered; the file stays."""
    ask("DELETE", f"{url}{ROUTE}/{quoted(name)}{_query(model)}", key)
    say(f"{name}: removed")


@app.command()
def profile(
    name: str,
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; configs/tiny.yaml if none.")
    ] = None,
    model: OfModel = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompts to measure with.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each prompt.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Steps of an image.")] = 20,
    size: Annotated[int, typer.Option(min=16, help="Its width and height.")] = 128,
) -> None:
    """Measure after how many steps an adapter has changed an image too much to be late, and write its profile."""
    settings = config.load(config_path or config.default_config())
    chosen = _model(settings, model)
    said = settings.models[chosen].adapters
    roots = adapter_roots(settings, chosen)
    from lego_serve.engine.adapter_profile import profile as measure
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.models.lora.checkpoint import find_adapter
    from lego_serve.models.lora.loading import base_layers, load_adapter

    spec = model_spec(settings, chosen)
    adapter = load_adapter(name, find_adapter(name, roots), base_layers(spec))
    family = OfflinePipeline.load(spec)
    found = measure(family, adapter, prompt or PROMPTS, range(seeds), steps=steps, size=size)
    folder = None if said is None or said.profiles is None else resolve_path(settings, said.profiles)
    path = profile_folder(_root_of(name, roots), folder, own_profiles(settings)) / f"{name}.profile.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    table = Table("adapter", "model", "registered", "rank", "bytes", "at hand in")
    for card in cards:
        facts = [_told(card.get(about)) for about in ("registered", "rank", "bytes", "resident")]
        table.add_row(card["id"], card["model"], *facts)
    return table


def _told(value: Any) -> str:
    """A value for people."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _query(model: str | None) -> str:
    return "" if model is None else f"?model={quoted(model)}"


def _model(settings: config.Settings, wanted: str | None) -> str:
    having = [name for name in settings.models if adapter_roots(settings, name) and wanted in (None, name)]
    if len(having) != 1:
        raise ConfigError("name one `--model` that has adapters" if having else "no such model has `adapters`")
    return having[0]


def _root_of(name: str, roots: tuple[Path, ...]) -> Path:
    return next(root for root in roots if (root / name).is_dir() or (root / f"{name}.safetensors").exists())
