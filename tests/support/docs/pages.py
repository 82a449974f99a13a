"""The shell commands that the pages show: the lines of blocks, and what stands between backquotes in a text."""

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = sorted(page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "CHANGELOG.md")
# The commands of these are run on a real server, as they stand: see tests/test_readme.py.
ON_A_SERVER = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("guide", "client", "jobs", "tiers"))]

BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`]+)`")
COMMENT = re.compile(r"(^|\s+)#( .*|$)")
VARIABLES = r"(?:[A-Z_]+=\S+ )*"
PROGRAMS = (
    "aiperf|apt-get|cp|curl|deno|docker|export|git|helm|kubectl|lego-serve|make|nginx|node|npm|npx|openssl|pip|printf"
    "|promtool|python3?|ray|redis-cli|redis-server|sed|serve|sudo|uv"
)
SHELL = re.compile(rf"{VARIABLES}(?:{PROGRAMS}) [^=]")


def _tidy(lines: Iterable[str]) -> list[str]:
    """Commands without comments, prompts and runs of blanks, once each."""
    bare = (" ".join(COMMENT.sub("", line).removeprefix("$ ").split()) for line in lines)
    return [line for line in dict.fromkeys(bare) if line]


def in_blocks(text: str, kinds: Iterable[str] = ("sh", "bash", "shell", "console", "")) -> list[str]:
    """The commands of a page's blocks of these languages; a block without one is the shell's if it begins with one.

    A line that ends in a backslash is joined with the next. Of a console's lines those with a prompt are commands.
    """
    found: list[str] = []
    for kind, block in BLOCK.findall(text):
        lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
        if kind not in kinds or (kind == "" and not SHELL.match(block.lstrip())):
            continue
        found += [line for line in lines if kind != "console" or line.startswith("$ ")]
    return _tidy(found)


def in_text(text: str) -> list[str]:
    """What stands between backquotes and begins with a program and another word."""
    spans = (" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text)))
    return _tidy(span for span in spans if SHELL.match(span))


def shown(text: str) -> list[str]:
    """All commands of a page."""
    return list(dict.fromkeys([*in_blocks(text), *in_text(text)]))


def run_on_a_server() -> list[str]:
    """The commands to a running server in the blocks of the pages that are followed as they stand."""
    found = {line for page in ON_A_SERVER for line in in_blocks(page.read_text(), ("sh",))}
    return sorted(line for line in found if line.startswith(("lego-serve", "curl")) and " serve" not in line)
