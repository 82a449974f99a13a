"""Somebody has decided on every command that a page shows: a test runs it, or there is a reason why none does."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.docs.decisions import FOREIGN, READ, RUN, decision
from tests.support.docs.pages import PAGES, ROOT, in_blocks, in_text, shown

COMMANDS = {page: shown(page.read_text()) for page in PAGES}
SHOWN = {command for commands in COMMANDS.values() for command in commands}
FOLLOWED = ("operations.md", "network.md", "telemetry.md")  # an operator types what they say
NEEDED = ("ray start", "make chaos", "pip install 'lego_serve[otel]'")  # of these, what no machine alone can run


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_of_a_page_is_decided_on(page: Path) -> None:
    """A new one belongs into tests/support/docs/decisions.py: with the test that runs it, if at all possible."""
    assert [command for command in COMMANDS[page] if decision(command) is None] == []


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_commands_of_pages_for_operators_are_run(name: str) -> None:
    """But for those that take a second machine, hours or a registry of packages."""
    commands = shown((ROOT / "docs" / name).read_text())
    assert commands
    assert not [command for command in commands if command not in RUN and not command.startswith(NEEDED)]


def test_no_decision_is_left_of_a_command_that_is_gone() -> None:
    """Each is one of a page."""
    assert not [command for command in RUN if command not in SHOWN]
    left = {command for command in SHOWN if command not in RUN}
    assert not [begin for begin in READ | FOREIGN if not any(command.startswith(begin) for command in left)]


def test_what_is_said_to_be_read_is_a_command_that_is_read() -> None:
    """By test_documented_commands.py, which knows these programs; others have files in the repository."""
    known = ("lego-serve ", "python -m ", "make", "ray start", "pip install ", "python kernels/")
    assert not [begin for begin in READ if not begin.startswith(known)]


@pytest.mark.parametrize("command", RUN)
def test_the_test_that_runs_a_command_is_there_and_has_its_words(command: str) -> None:
    """Or it reads the page; its options and other small letters stand in it, what is in capitals is the reader's."""
    path, _, name = RUN[command].partition("::")
    source = (ROOT / path).read_text()
    tests = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert name in tests
    words = [word.strip("[]") for word in command.split()[1:]]
    ours = [word for word in words if word.strip() and not re.search(r"[A-Z]{2}", word)]
    pages = "|".join(page.stem for page, commands in COMMANDS.items() if command in commands)
    reads_the_page = re.search(rf'"({pages})(\.md)?"', source) or "run_on_a_server" in source
    assert reads_the_page or not [word for word in ours if not re.search(rf'["\' ]{re.escape(word)}["\' ]', source)]


@pytest.mark.parametrize("why", sorted({*READ.values(), *FOREIGN.values()}))
def test_the_files_that_reasons_name_are_there(why: str) -> None:
    """A test that is moved leaves no reason behind."""
    assert not [path for path in re.findall(r"tests/[\w/.]*\w", why) if not (ROOT / path).exists()]


TEXT = """
Type `lego-serve explode --now`, or `nginx -t`; `lego-serve` is a name, `curl
-s localhost` goes on.

```sh
openssl genrsa 4096 \\
  -out key.pem  # a comment
FOO=1 lego-serve explode
```

```
tree/
```

```console
$ lego-serve shown
its output
```

```yaml
make: no command
```
"""


def test_the_commands_of_a_page_are_found_and_those_that_nobody_knows_are_not_decided_on() -> None:
    """In blocks of the shell, in consoles and in the text; names alone, trees and other languages are none."""
    in_the_block = ["openssl genrsa 4096 -out key.pem", "FOO=1 lego-serve explode", "lego-serve shown"]
    assert in_blocks(TEXT) == in_the_block
    assert in_text(TEXT) == ["lego-serve explode --now", "nginx -t", "curl -s localhost"]
    assert {decision(command) for command in shown(TEXT)} == {None}
    assert decision("make") == decision("make serve") == READ["make"]
    assert decision("maker serve") is None
