"""``lego-serve scale`` against a gateway in a thread."""

from collections.abc import Iterator

import pytest

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner

NODE = "lego-tiny.backbone"


@pytest.fixture
def runner() -> FakeRunner:
    """The runner behind the gateway."""
    return FakeRunner()


@pytest.fixture
def url(runner: FakeRunner) -> Iterator[str]:
    """A gateway's address."""
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as url:
        yield url


def rows(out: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]


def test_a_node_is_pinned_listed_and_unpinned(command, url: str, runner: FakeRunner) -> None:
    """To a number, or to the fewest and the most; the list says why it changed last."""
    assert rows(command("scale", "--url", url)[1]) == [[NODE, "1", "1 to 2", "no", "-"]]
    pinned = command("scale", NODE, "3", "--url", url)
    assert pinned[:2] == (0, f"{NODE}: pinned to 3, until a restart\n")
    why = "an operator pinned it to 3 replicas"
    assert rows(command("scale", NODE, "--url", url)[1]) == [[NODE, "3", "3", "yes", why]]
    assert command("scale", NODE, "2-4", "--url", url)[1] == f"{NODE}: pinned to 2 to 4, until a restart\n"
    assert command("scale", NODE, "--unpin", "--url", url)[1] == f"{NODE}: its configuration holds again\n"
    assert [bounds for _, bounds in runner.pins] == [ReplicaBounds(3, 3), ReplicaBounds(2, 4), None]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((NODE, "many"), "'many' is neither a number nor two such as 2-4"),
        ((NODE, "2-"), "'2-' is neither"),
        ((NODE, "-2"), "No such option"),
        ((NODE, "2", "--unpin"), "it takes a node and no number"),
        (("--unpin",), "it takes a node and no number"),
        (("m.vae",), f"there is no node 'm.vae'; there is {NODE}"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_pinned(
    command, url: str, runner: FakeRunner, words: tuple[str, ...], told: str
) -> None:
    """By name, with what would be right."""
    code, _, error = command("scale", *words, "--url", url)
    assert (code, runner.pins) == (2, [])
    assert told in " ".join(error.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((NODE, "4-2"), "`max` (2) is less than `min` (4)."),
        ((NODE, "0"), "`min` must be at least 1."),
        ((NODE, "1-65"), "`max` must be at most 64."),
        (("m.vae", "2"), f"There is no node `m.vae`; there is {NODE}."),
    ],
)
def test_what_the_server_refuses_is_one_line(command, url: str, words: tuple[str, ...], told: str) -> None:
    """In the server's own words."""
    code, _, error = command("scale", *words, "--url", url)
    assert code == 1
    assert error.startswith("error: ")
    assert told in error


def test_where_no_replicas_are_counted_the_list_says_so(command, url: str, runner: FakeRunner) -> None:
    """As while Ray is away, or before its controller has decided anything."""
    runner.board = ScaleBoard()
    assert command("scale", "--url", url)[:2] == (0, "no replicas are counted: nothing was decided yet\n")
