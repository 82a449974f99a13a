"""``lego-serve templates list | add | warm | rm``: images registered with a running server for many edits."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, ask, quoted, say, show
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, help="Register images for many edits, and make them ready.")
Template = Annotated[str, typer.Argument(metavar="ID", help="As `add` and `list` say it.")]
Caption = Annotated[str | None, typer.Option(metavar="TEXT", help="What the image shows, as it is.")]


@app.command("list")
def list_templates(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List your templates, oldest first."""
    table = Table(Column("template", overflow="fold"), "name", "model", "size", "pinned", "bytes")
    for card in ask("GET", f"{url}/v1/templates", key)["data"]:
        pinned = "yes" if card["pinned"] else "no"
        size = f"{card['width']}x{card['height']}"
        table.add_row(card["id"], card["name"], card["model"], size, pinned, _predicted(card))
    show(table)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP image.")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    model: str | None = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, if not the image's own.")] = None,
    caption: Caption = None,
    pin: Annotated[bool, typer.Option(help="Keep its activations whatever else is edited.")] = False,
    warm: Annotated[bool, typer.Option(help="Compute them now.")] = False,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Register an image."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LegoError(f"{file}: cannot be read: {error.strerror}") from None
    fields = {"name": name, "model": model, "size": size, "caption": caption}
    fields |= {"pin": "true" if pin else None, "warm": "true" if warm else None}
    given = {field: value for field, value in fields.items() if value}
    card = ask("POST", f"{url}/v1/templates", key, given, {"image": data})
    say(f"{card['id']}: {card['name']}, {card['width']}x{card['height']}, {_predicted(card)} bytes of activations")


@app.command()
def warm(
    template: Template,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the edits to be.")] = None,
    guidance: float | None = None,
    sampler: str | None = None,
    caption: Caption = None,
    wait: Annotated[bool, typer.Option(help="Until it is done.")] = False,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Compute what edits of a template will read."""
    fields = {"steps": steps, "guidance": guidance, "sampler": sampler, "caption": caption, "wait": wait or None}
    given = {field: value for field, value in fields.items() if value is not None}
    said = ask("POST", f"{url}/v1/templates/{quoted(template)}/warm", key, given)
    ended = f"warmed by {said['primed']} passes" if said["status"] == "done" else "warming"
    say(f"{template}: {ended}, {said['bytes_predicted']} bytes in all")


@app.command("rm")
def remove(template: Template, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Forget a template, with what is kept of it."""
    ask("DELETE", f"{url}/v1/templates/{quoted(template)}", key)
    say(f"{template}: removed")


def _predicted(card: dict[str, Any]) -> str:
    """Bytes of its activations, marked where no replica has room for them."""
    said = card["bytes_predicted"]
    if said is None:
        return "unknown"
    return str(said) if card["fits"] else f"{said} (!)"
