"""The commands in the tables of docs/operations.md, typed as they stand there, against a gateway in a thread."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
ROW = re.compile(r"^\| (`[A-Z]+ /v1/admin/[^|]*) \| (`lego-serve [^|]*|none) \|", re.M)
QUOTED = re.compile(r"`([^`]+)`")
ROWS = [
    (command, route)
    for routes, commands in ROW.findall(PAGE)
    for command, route in zip(QUOTED.findall(commands), QUOTED.findall(routes), strict=commands != "none")
]


class Heard:
    """An application that notes which routes are asked for."""

    def __init__(self, runner: FakeRunner) -> None:
        self._app = create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())
        self.state, self.routes = self._app.state, list[str]()

    async def __call__(self, scope, receive, send) -> None:
        """Note the method and the path, and answer."""
        if scope["type"] == "http":
            self.routes.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)


@pytest.fixture
def heard() -> Heard:
    """The application."""
    return Heard(FakeRunner())


@pytest.fixture
def url(heard: Heard) -> Iterator[str]:
    """Its address."""
    with Live(heard) as url:
        yield url


def test_the_page_has_the_operators_commands() -> None:
    """Or nothing is typed below."""
    assert len(ROWS) == 9


@pytest.mark.parametrize(("shown", "route"), ROWS, ids=[shown for shown, _ in ROWS])
def test_operators_commands_ask_for_the_routes_beside_them(command, heard: Heard, url: str, shown: str, route: str):
    """With a job, a replica and a node that the server has in place of what is in capitals, each ends well."""
    known = {"ID": "r1" if "replicas" in route else "job_known", "NODE": "lego-tiny.backbone"}
    typed, asked = (re.sub(r"\b(ID|NODE)\b", lambda found: known[found[0]], each) for each in (shown, route))
    code, out, error = command(*typed.split()[1:], "--url", url)
    assert (code, error) == (0, "")
    assert heard.routes == [asked]
    assert all(known[word] in out for word in re.findall(r"\b(?:ID|NODE)\b", shown))
