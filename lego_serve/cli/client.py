"""How the command line asks a running server, and how it shows what comes back."""

from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from lego_serve.errors import LegoError

DEFAULT_URL = "http://127.0.0.1:8000"
PIPE_WIDTH = 10_000  # a program that reads a table wants each row in one line
Url = Annotated[str, typer.Option(envvar="LEGO_SERVE_URL", help="Where the server answers.")]
KeyOption = Annotated[str, typer.Option(envvar="LEGO_SERVE_KEY", help="An API key, where the server asks for one.")]
out = Console()


def ask(
    method: str, url: str, key: str, body: dict[str, Any] | None = None, files: dict[str, bytes] | None = None
) -> Any:
    """What a server answers to a JSON body, or with ``files`` to a form.  Raises LegoError, one line."""
    for word in (url, key, *(body or {}).values()):
        text(str(word))
    if not key.isascii():
        raise LegoError("an API key has no such letters")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    sent: dict[str, Any] = {"json": body} if files is None else {"data": body, "files": files}
    try:
        answer = httpx2.request(method, url, headers=headers, timeout=600, **sent)
    except httpx2.ConnectError:
        raise LegoError(f"nothing answers at {url}; start a server with `lego-serve serve`") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise LegoError(f"{url}: {type(error).__name__}") from None
    if answer.status_code == 204:
        return None
    try:
        content = answer.json()
    except ValueError:
        raise LegoError(f"{url} answered {answer.status_code} and no JSON; is it a lego_serve server?") from None
    if not 200 <= answer.status_code < 300:
        raise LegoError(content.get("error", {}).get("message", f"the server answered {answer.status_code}"))
    return content


def quoted(word: str) -> str:
    """One part of a URL's path."""
    return quote(text(word), safe="")


def text(word: str) -> str:
    """A word of the command line.  Raises LegoError when it is no text in the terminal's encoding."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise LegoError("the command line has bytes that are no text") from None
    return word


def say(line: str) -> None:
    """Print a line as it is."""
    out.print(line, highlight=False, soft_wrap=True, markup=False)


def show(table: Table) -> None:
    """Print a table: fitted to a terminal, one line a row for a program."""
    (out if out.is_terminal else Console(width=PIPE_WIDTH)).print(table)
