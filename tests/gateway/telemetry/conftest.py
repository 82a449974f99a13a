"""What a gateway logs, as an operator's tools read it."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lego_serve.process.json_logging import json_handler


@pytest.fixture
def logged() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The lines so far of a logger and those below it."""
    written = io.StringIO()
    handler, log = json_handler(written), logging.getLogger("lego_serve")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    def lines(name: str) -> list[dict[str, Any]]:
        records = map(json.loads, written.getvalue().splitlines())
        return [record for record in records if record["logger"].startswith(name)]

    yield lines
    log.removeHandler(handler)
    log.setLevel(level)
