"""Every promise of docs/reliability.md names the tests that hold it, and they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROW = re.compile(r"^\| P(\d+) [^|]*\|(.*)$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def test_every_promise_is_there_with_the_tests_that_hold_it() -> None:
    """From P1 to P24."""
    rows = {int(number): rest for number, rest in ROW.findall(PAGE)}
    assert set(rows) == set(range(1, 25))
    assert not {number for number, rest in rows.items() if not TEST.search(rest)}


def test_every_test_that_is_named_exists() -> None:
    """File and function."""
    named = TEST.findall(PAGE)
    assert len(named) > 24
    for file, function in named:
        text = (ROOT / file).read_text()
        assert not function or re.search(rf"^(?:async )?def {function}\(", text, re.MULTILINE), f"{file}::{function}"
