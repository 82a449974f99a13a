"""How commands fail: one line on stderr, and an exit code that scripts can tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from loadgen.traces.errors import TraceError

WORSE, BAD_INPUT, NOT_JUDGED = 1, 2, 3  # exit codes; 0 is success


@contextmanager
def bad_input_ends() -> Iterator[None]:
    """End the command with one line where its input is bad."""
    try:
        yield
    except (TraceError, ValueError) as error:
        raise ended(str(error), BAD_INPUT) from None


def ended(line: str, code: int) -> typer.Exit:
    """Say why the command ends and return what ends it."""
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)
