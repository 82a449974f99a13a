"""Log lines are JSON, whatever is logged."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from lego_serve.process import json_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a process that logs our way writes."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    ours = logging.getLogger("lego_serve")
    our_level = ours.level
    root.handlers[:] = []
    written = io.StringIO()
    json_logging.install(written)
    yield written
    root.handlers[:] = before
    root.setLevel(level)
    ours.setLevel(our_level)


def test_quotes_line_ends_and_tracebacks_stay_within_one_line(stream: io.StringIO) -> None:
    """Each line parses, and the traceback is a value of it."""
    try:
        raise ValueError('a "quoted"\nthing')
    except ValueError:
        logging.getLogger("lego_serve.test").exception('a word in "%s"\n', "no")
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == ("ERROR", "lego_serve.test", 'a word in "no"\n')
    assert record["exception"].startswith("Traceback")
    assert record["time"].endswith("Z")


def test_our_own_information_is_logged_and_that_of_libraries_is_not(stream: io.StringIO) -> None:
    """Ours from INFO on, theirs from WARNING on."""
    logging.getLogger("lego_serve.gateway").info("ours")
    logging.getLogger("some.library").info("theirs")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours"]


def test_lines_that_clients_can_cause_are_bounded_and_counted(stream: io.StringIO) -> None:
    """Of two thousand alike ten are told, and later one that says how many were not; every error is told."""
    for number in range(2000):
        log_at(1000.0, logging.INFO, "request ended: %s", "job_cancelled" if number % 2 else "over_capacity")
    for _ in range(20):
        log_at(1000.0, logging.ERROR, "broken")
    log_at(1060.0, logging.INFO, "request ended: %s", "job_cancelled")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["message"] for record in records].count("broken") == 20
    ended = [record for record in records if record["message"].startswith("request ended")]
    assert [record.get("left_out") for record in ended] == [None] * 10 + [1990]


def log_at(created: float, level: int, text: str, *values: str) -> None:
    """Log a line as at that time."""
    record = logging.LogRecord("lego_serve.gateway", level, __file__, 1, text, values, None)
    record.created = created
    logging.getLogger(record.name).handle(record)
