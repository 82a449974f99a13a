"""Every command that a page shows is one that the program takes: its words, options and values are read, not run.

What can be run quickly is run as well, by tests/test_readme.py and by the tests that name the other pages.
"""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer

from lego_serve.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "CHANGELOG.md"]
BLOCK = re.compile(r"```\w*\n(.*?)```", re.S)
TARGET = re.compile(r"^([\w-]+):", re.M)


def lines() -> list[str]:
    """The lines of all blocks, those that end in a backslash joined with the next, once each."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            found += block.replace("\\\n", " ").splitlines()
    return sorted({line.removeprefix("$ ").strip() for line in found})


def beginning_with(word: str) -> list[str]:
    """The commands among them that begin so, up to what the shell does with their output; variables may come first."""
    found = (re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines())
    return sorted({re.split(r" > | && | & *$|; ", line)[0] for line in found if line.startswith(word)})


SERVES, MODULES, TARGETS = beginning_with("lego-serve "), beginning_with("python -m "), beginning_with("make ")


def test_pages_show_commands() -> None:
    """Or the tests below would show nothing."""
    assert (len(SERVES) > 20, len(MODULES) > 30, len(TARGETS) > 2) == (True, True, True)


@pytest.mark.parametrize("line", SERVES)
def test_lego_serve_takes_the_commands_that_pages_show(line: str) -> None:
    """Each option is one of the command, with a value where it needs one, and nothing that is required is missing."""
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert not rest or context.allow_extra_args, rest
    needed = [each.name for each in command.params if each.required and each.name]
    assert not [name for name in needed if values.get(name) is None]


@pytest.mark.parametrize("line", MODULES)
def test_modules_take_the_options_that_pages_show(line: str) -> None:
    """Each is a parameter, or stands as it is, in the sources of the module's package: most take torch to import."""
    _, _, module, *words = shlex.split(line, comments=True)
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    sources = "".join(file.read_text() for file in Path(spec.origin).parent.rglob("*.py"))
    options = [word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")]
    assert not [each for each in options if not re.search(rf'"--{each}"|\b{each.replace("-", "_")}: ', sources)]


@pytest.mark.parametrize("line", TARGETS)
def test_make_has_the_targets_that_pages_show(line: str) -> None:
    """With the variables that it is given."""
    makefile = (ROOT / "Makefile").read_text()
    target, *variables = shlex.split(line, comments=True)[1:]
    assert target in TARGET.findall(makefile)
    assert all(f"$({variable.partition('=')[0]})" in makefile for variable in variables)
