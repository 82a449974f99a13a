"""Sends the requests of the command line to a running server, and prints the answers."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from lego_serve.client import Client, Unreachable
from lego_serve.errors import LegoError

DEFAULT_URL = "http://127.0.0.1:8000"
PIPE_WIDTH = 10_000  # a program that reads a table needs each row in one line
Url = Annotated[str, typer.Option(envvar="LEGO_SERVE_URL", help="The URL of the server.")]
KeyOption = Annotated[str, typer.Option(envvar="LEGO_SERVE_KEY", help="An API key, if the server needs one.")]
out = Console()


@contextmanager
def connected(url: str, key: str) -> Iterator[Client]:
    """Yield a client of a running server.  Raises LegoError, one line."""
    if not as_text(key).isascii():
        raise LegoError("an API key has no such letters")
    try:
        with closing(Client(as_text(url), key, retries=0)) as client:
            yield client
    except Unreachable as error:
        if isinstance(error.__cause__, httpx2.ConnectError):
            raise LegoError(f"nothing answers at {url}; start a server with `lego-serve serve`") from None
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise LegoError(f"{url}: {type(error).__name__}") from None


def request(
    method: str, url: str, key: str, body: dict[str, Any] | None = None, files: dict[str, bytes] | None = None
) -> Any:
    """Return the server's answer to a JSON body, or to a form if there are ``files``.  Raises LegoError, one line."""
    for word in (body or {}).values():
        as_text(str(word))
    with connected(url, key) as client:
        return client.request(method, url, body, files)


def url_part(word: str) -> str:
    """Return a word quoted as one part of a URL's path."""
    return quote(as_text(word), safe="")


def as_text(word: str) -> str:
    """Return a word of the command line.  Raises LegoError if it is not text in the terminal's encoding."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise LegoError("the command line has bytes that are no text") from None
    return word


def print_line(line: str) -> None:
    """Print a line without markup or wrapping."""
    out.print(line, highlight=False, soft_wrap=True, markup=False)


def print_table(table: Table) -> None:
    """Print a table: fitted to a terminal, or one line per row for a program."""
    (out if out.is_terminal else Console(width=PIPE_WIDTH)).print(table)
