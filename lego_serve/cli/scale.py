"""``lego-serve scale``: how many replicas nodes have, and pins of that number."""

from typing import Annotated, Any

import typer
from rich.table import Table

from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, print_line, print_table, request, url_part

Node = Annotated[
    str | None, typer.Argument(metavar="[NODE]", help="MODEL.COMPONENT, or shared.workers; all are listed without one.")
]
Replicas = Annotated[
    str | None, typer.Argument(metavar="[REPLICAS]", help="A number, or the fewest and the most, such as 2-4.")
]


def scale(
    node: Node = None,
    replicas: Replicas = None,
    unpin: Annotated[bool, typer.Option(help="Have the configuration's bounds hold again.")] = False,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Pin how many replicas a node, or the shared workers, have until a restart; list all without arguments."""
    if unpin and (node is None or replicas is not None):
        raise typer.BadParameter("it takes a node and no number", param_hint="--unpin")
    if node is None or (replicas is None and not unpin):
        _list(node, url, key)
        return
    path = f"{url}/v1/admin/nodes/{url_part(node)}/replicas"
    if unpin:
        request("DELETE", path, key)
        print_line(f"{node}: its configuration holds again")
        return
    least, most = parse_replicas(replicas or "")
    request("PUT", path, key, {"min": least, "max": most})
    print_line(f"{node}: pinned to {_bounds(least, most)}, until a restart")


def parse_replicas(text: str) -> tuple[int, int]:
    """Return the fewest and the most replicas of ``3`` or ``2-4``.  Raises BadParameter."""
    least, dash, most = text.partition("-")
    most = most if dash else least
    if not (least.isascii() and least.isdecimal() and most.isascii() and most.isdecimal()):
        raise typer.BadParameter(f"{text!r} is neither a number nor two such as 2-4", param_hint="REPLICAS")
    return int(least), int(most)


def _list(node: str | None, url: str, key: str) -> None:
    cards = request("GET", f"{url}/v1/admin/nodes", key)["data"]
    if node is not None and node not in [card["id"] for card in cards]:
        there_is = ", ".join(card["id"] for card in cards) or "none whose replicas are counted yet"
        raise typer.BadParameter(f"there is no node {node!r}; there is {there_is}", param_hint="NODE")
    if not cards:
        print_line("no replicas are counted: nothing was decided yet")
        return
    table = Table("node", "replicas", "bounds", "pinned", "last change")
    for card in cards:
        if node in (None, card["id"]):
            table.add_row(*_row(card))
    print_table(table)


def _row(card: dict[str, Any]) -> tuple[str, ...]:
    pinned = "yes" if card["pinned"] else "no"
    return card["id"], str(card["target"]), _bounds(card["min"], card["max"]), pinned, card["why"] or "-"


def _bounds(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"
