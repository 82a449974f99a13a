"""``lego-serve templates list | show | add | warm | rm``: images registered for many edits."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, print_line, print_table, request, url_part
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, help="Register images for many edits, and prepare them.")
Template = Annotated[str, typer.Argument(metavar="ID", help="As `add` and `list` print it.")]
Tier = Annotated[str | None, typer.Option(help="The tier of the later edits.")]
Caption = Annotated[str | None, typer.Option(metavar="TEXT", help="What the image shows before any edit.")]


@app.command("list")
def list_templates(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List your templates, oldest first."""
    table = Table(Column("template", overflow="fold"), "name", "model", "size", "pinned", "bytes")
    for card in request("GET", f"{url}/v1/templates", key)["data"]:
        pinned = "yes" if card["pinned"] else "no"
        size = f"{card['width']}x{card['height']}"
        table.add_row(card["id"], card["name"], card["model"], size, pinned, _predicted(card))
    print_table(table)


@app.command()
def show(template: Template, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Show one of your templates, and the replicas that keep activations of it."""
    card = request("GET", f"{url}/v1/templates/{url_part(template)}", key)
    replicas = ", ".join(f"{each['id']} ({each['bytes']} bytes)" for each in card["replicas"])
    print_line(f"{card['id']}: {card['name']}, {card['width']}x{card['height']}, for {card['model']}")
    print_line(f"caption: {card['caption'] or '-'}")
    print_line(f"pinned: {'yes' if card['pinned'] else 'no'}")
    print_line(f"bytes: {_predicted(card)}")
    print_line(f"replicas: {replicas or '-'}")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP image.")],
    name: Annotated[str | None, typer.Option(help="A name for it.")] = None,
    model: str | None = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, if not the image's own.")] = None,
    caption: Caption = None,
    pin: Annotated[bool, typer.Option(help="Keep its activations in memory, whatever else is edited.")] = False,
    warm: Annotated[bool, typer.Option(help="Compute them now.")] = False,
    tier: Tier = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Register an image."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LegoError(f"{file}: cannot be read: {error.strerror}") from None
    fields = {"name": name, "model": model, "size": size, "caption": caption, "tier": tier}
    fields |= {"pin": "true" if pin else None, "warm": "true" if warm else None}
    form = {field: value for field, value in fields.items() if value}
    card = request("POST", f"{url}/v1/templates", key, form, {"image": data})
    size = f"{card['width']}x{card['height']}"
    print_line(f"{card['id']}: {card['name']}, {size}, {_predicted(card)} bytes of activations")


@app.command()
def warm(
    template: Template,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the later edits.")] = None,
    guidance: float | None = None,
    sampler: str | None = None,
    tier: Tier = None,
    caption: Caption = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = False,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Compute what edits of a template will read."""
    fields = {"steps": steps, "guidance": guidance, "sampler": sampler, "tier": tier, "caption": caption}
    fields |= {"wait": wait or None}
    body = {field: value for field, value in fields.items() if value is not None}
    answer = request("POST", f"{url}/v1/templates/{url_part(template)}/warm", key, body)
    status = f"warmed by {answer['primed']} passes" if answer["status"] == "done" else "warming"
    print_line(f"{template}: {status}, {answer['bytes_predicted']} bytes in all")


@app.command("rm")
def remove(template: Template, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Remove a template and its activations."""
    request("DELETE", f"{url}/v1/templates/{url_part(template)}", key)
    print_line(f"{template}: removed")


def _predicted(card: dict[str, Any]) -> str:
    """Return the bytes of a template's activations, marked if no replica has room for them."""
    count = card["bytes_predicted"]
    if count is None:
        return "unknown"
    return str(count) if card["fits"] else f"{count} (!)"
