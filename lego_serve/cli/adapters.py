"""``lego-serve adapters list | show | register | remove | profile``: manages and measures a server's adapters."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lego_serve import config
from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, as_text, print_line, print_table, request, url_part
from lego_serve.deployment import adapter_roots, model_spec
from lego_serve.errors import ConfigError, LegoError
from lego_serve.models.registry import profile_folder
from lego_serve.places import own_profiles, resolve_path

app = typer.Typer(no_args_is_help=True, help="Manage a server's adapters (LoRA), and measure how late one may arrive.")
ROUTE = "/v1/admin/adapters"
OfModel = Annotated[str | None, typer.Option("--model", help="The model, if several have adapters.")]
PROMPTS = (
    "a large red circle on the left, blue background",
    "a small yellow triangle above a large green square, white background",
    "a large black cross in the center, white background",
)


@app.command("list")
def list_adapters(model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the adapters of a running server."""
    answer = request("GET", url + ROUTE + _query(model), key)
    print_table(_table(answer["data"]))
    for file in answer.get("passed_over", ()):
        print_line(f"passed over: {file['path']}. {file['reason']}")


@app.command("show")
def show_adapter(name: str, model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Show an adapter of a running server, which reads and checks its file."""
    for field, value in request("GET", f"{url}{ROUTE}/{url_part(name)}{_query(model)}", key).items():
        if field != "object":
            print_line(f"{field}: {_formatted(value)}")


@app.command()
def register(
    name: str,
    path: Annotated[str, typer.Argument(help="A .safetensors file, relative to one of the server's roots.")],
    model: OfModel = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Register a file below one of the roots of a running server."""
    body = {"id": as_text(name), "path": as_text(path)} | ({} if model is None else {"model": model})
    card = request("POST", url + ROUTE, key, body)
    print_line(f"{name}: registered for {card['model']}, rank {card['rank']}, {card['bytes']} bytes")


@app.command()
def remove(name: str, model: OfModel = None, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Unregister an adapter; its file stays."""
    request("DELETE", f"{url}{ROUTE}/{url_part(name)}{_query(model)}", key)
    print_line(f"{name}: removed")


@app.command()
def profile(
    name: str,
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; by default configs/tiny.yaml.")
    ] = None,
    model: OfModel = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompts to measure with.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each prompt.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Steps of each image.")] = 20,
    size: Annotated[int, typer.Option(min=16, help="Width and height of each image.")] = 128,
) -> None:
    """Measure after how many steps an adapter has changed an image too much to be late, and write its profile."""
    settings = config.load(config_path or config.default_config())
    model = _model(settings, model)
    adapter_settings = settings.models[model].adapters
    roots = adapter_roots(settings, model)
    from lego_serve.engine.adapter_profile import profile as measure
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.models.lora.loading import base_layers, load_adapter
    from lego_serve.models.lora.roots import find_adapter

    spec = model_spec(settings, model)
    adapter = load_adapter(name, find_adapter(name, roots), base_layers(spec))
    pipeline = OfflinePipeline.load(spec)
    measured = measure(pipeline, adapter, prompt or PROMPTS, range(seeds), steps=steps, size=size)
    profiles = None if adapter_settings is None else adapter_settings.profiles
    folder = None if profiles is None else resolve_path(settings, profiles)
    path = profile_folder(_root_of(name, roots), folder, own_profiles(settings)) / f"{name}.profile.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured.content(), indent=1) + "\n")
    except OSError as error:
        raise LegoError(f"{path}: cannot be written: {error.strerror}") from None
    step, limit, ratio = measured.first_step, measured.limit, measured.ratio
    verb = "never falls" if step is None else f"falls after step {step} of {steps}"
    typer.echo(f"{path}: the similarity {verb} under {limit}; {ratio:.0%} of the steps may pass without it")


def _table(cards: list[dict[str, Any]]) -> Table:
    table = Table("adapter", "model", "registered", "rank", "bytes", "at hand in")
    for card in cards:
        cells = [_formatted(card.get(field)) for field in ("registered", "rank", "bytes", "resident")]
        table.add_row(card["id"], card["model"], *cells)
    return table


def _formatted(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _query(model: str | None) -> str:
    return "" if model is None else f"?model={url_part(model)}"


def _model(settings: config.Settings, requested: str | None) -> str:
    """Return the requested model, or the only one that has adapters.  Raises ConfigError."""
    names = [name for name in settings.models if adapter_roots(settings, name) and requested in (None, name)]
    if len(names) != 1:
        raise ConfigError("name one `--model` that has adapters" if names else "no such model has `adapters`")
    return names[0]


def _root_of(name: str, roots: tuple[Path, ...]) -> Path:
    return next(root for root in roots if (root / name).is_dir() or (root / f"{name}.safetensors").exists())
