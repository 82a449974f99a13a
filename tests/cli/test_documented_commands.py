"""Every command that a page shows is one that the program takes: its words, options and values are read, not run.

What can be run is run as well: tests/support/docs/decisions.py says by which test.
"""

import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer

from lego_serve.cli.main import app
from tests.support.docs.pages import PAGES, ROOT, VARIABLES, in_blocks, shown

TARGET = re.compile(r"^([\w-]+):", re.M)
ALL = sorted({command for page in PAGES for command in shown(page.read_text())})
IN_BLOCKS = {command for page in PAGES for command in in_blocks(page.read_text())}


def beginning_with(word: str) -> list[str]:
    """The commands of all pages that begin so, up to what the shell does with their output; variables may come first.

    Brackets around what may be left out are taken away.
    """
    found = (re.sub(rf"^{VARIABLES}", "", line) for line in ALL)
    ours = {re.split(r" > | && | & *$|; ", line)[0] for line in found if line.startswith(word)}
    return sorted({re.sub(r"\[(\S.*?)\]", r"\1", line) if " [" in line else line for line in ours})


SERVES, MODULES, TARGETS = beginning_with("lego-serve "), beginning_with("python -m "), beginning_with("make ")
RAYS = beginning_with("ray start ")
EXTRAS = sorted({extra for line in ALL for extra in re.findall(r"'lego_serve\[(\w+)\]'", line)})


def test_pages_show_commands() -> None:
    """Or the tests below would show nothing."""
    assert (len(SERVES) > 40, len(MODULES) > 70, len(TARGETS) > 9) == (True, True, True)
    assert (len(RAYS) > 3, EXTRAS) == (True, ["objects", "otel", "worker"])


@pytest.mark.parametrize("line", SERVES)
def test_lego_serve_takes_the_commands_that_pages_show(line: str) -> None:
    """Each option is one of the command, with a value where it needs one, and nothing that is required is missing.

    A text may have the name of a command, or of a group of them, alone.
    """
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group) and words:
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    if not words and line not in IN_BLOCKS:
        return
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
    options = [
        word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--") and word != "--help"
    ]
    assert not [each for each in options if not re.search(rf'"--{each}"|\b{each.replace("-", "_")}: ', sources)]


@pytest.mark.parametrize("line", TARGETS)
def test_make_has_the_targets_that_pages_show(line: str) -> None:
    """With the variables that it is given."""
    makefile = (ROOT / "Makefile").read_text()
    target, *variables = shlex.split(line, comments=True)[1:]
    assert target in TARGET.findall(makefile)
    assert all(f"$({variable.partition('=')[0]})" in makefile for variable in variables)


@pytest.mark.parametrize("line", RAYS)
def test_ray_takes_the_options_that_pages_show(line: str) -> None:
    """Those of the version that is installed."""
    from ray.scripts.scripts import start

    words = shlex.split(line, comments=True)[2:]
    _, rest, _ = start.make_parser(click.Context(start)).parse_args(args=words)
    assert not rest


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_package_has_the_extras_that_pages_install(extra: str) -> None:
    """By their names in its metadata."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert extra in metadata["project"]["optional-dependencies"]


@pytest.mark.parametrize("line", ALL)
def test_the_repository_has_the_files_that_commands_name(line: str) -> None:
    """In the folders that pages speak of; what stands in capitals is the reader's, as what follows ``>`` is."""
    words = re.split(r" > ", line)[0].split()
    ours = [word for word in words if re.match(r"(configs|deploy|docs|kernels|lego_serve|tests)/", word)]
    assert not [word for word in ours if not re.search(r"[A-Z]{4}", word) and not (ROOT / word).exists()]
