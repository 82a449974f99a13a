"""The blocks of the README, docs/guide.md and docs/workflows.md are run as they stand; the commands of others too."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from lego_serve.config import load
from lego_serve.core.workflow.graph import INPUT_TYPES, KINDS
from lego_serve.served_workflows import load_workflows
from tests.support.docs.pages import run_on_a_server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
USE = README + (ROOT / "docs" / "guide.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", USE, re.S)
COMMANDS = run_on_a_server()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

PAGE = (ROOT / "docs" / "workflows.md").read_text()
BLOCKS = re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE, re.S)
FILES = {found[1]: block for block in BLOCKS if (found := re.match(r"# (\S+)\n", block))}
PAGE_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)
CONSOLE = re.findall(r"```console\n(.*?)```", PAGE, re.S)


def environment(url: str) -> dict[str, str]:
    """The shell of a reader who has the package's scripts on the path."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {"LEGO_SERVE_URL": url, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONUTF8": "1"}


def run(command: list[str] | str, folder: Path, url: str) -> str:
    """Run what a reader would type, in a folder; answers what it printed."""
    is_shell = isinstance(command, str)
    done = subprocess.run(
        command, shell=is_shell, cwd=folder, env=environment(url), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def page_files(tmp_path: Path) -> Path:
    """A folder with the files docs/workflows.md shows; a block's first line names its file."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.ray
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(block: str, server, tmp_path: Path) -> None:
    """Every Python block ends without an error."""
    run([sys.executable, "-c", block.replace("http://127.0.0.1:8000", server.url)], tmp_path, server.url)


@pytest.mark.ray
@pytest.mark.parametrize("command", COMMANDS)
def test_lego_serve_commands_run(command: str, server, tmp_path: Path) -> None:
    """Every line that needs no other server ends well, and what it sends is not refused."""
    (tmp_path / "lego_serve").symlink_to(ROOT / "lego_serve")
    Image.new("RGB", (128, 128), "red").save(tmp_path / "circle.png")
    Image.new("RGBA", (128, 128)).save(tmp_path / "mask.png")  # all of it is edited
    told = run(command.replace("localhost:8000", server.url), tmp_path, server.url)
    answer = json.loads(told) if command.startswith("curl") else {}
    assert answer.get("error") is None
    if "respond-async" in command:  # nobody else is to find its job
        limit = time.monotonic() + 180
        while httpx2.get(f"{server.url}/v1/jobs/{answer['id']}", timeout=30).json()["status"] != "completed":
            assert time.monotonic() < limit
            time.sleep(0.2)


@pytest.mark.parametrize("block", PAGE_PYTHON, ids=range(len(PAGE_PYTHON)))
def test_python_blocks_of_the_workflow_page_run(block: str, page_files: Path) -> None:
    """Every Python block ends without an error beside the files the page shows."""
    run([sys.executable, "-c", block], page_files, "")


@pytest.mark.parametrize("block", CONSOLE, ids=range(len(CONSOLE)))
def test_commands_of_the_workflow_page_print_what_it_says(block: str, page_files: Path) -> None:
    """Every command's output, errors included, is the text below it."""
    outputs = re.findall(r"^\$ (.*)\n((?:[^$].*\n|\n)*)", block, re.M)
    assert "".join(f"$ {command}\n{output}" for command, output in outputs) == block
    for command, output in outputs:
        assert run(f"{{ {command}; }} 2>&1 || true", page_files, "") == output, command


def test_the_configuration_of_the_workflow_page_serves_its_workflow(page_files: Path) -> None:
    """What it names is served: the file beside it and the built-in ones."""
    settings = load(page_files / "config.yaml")
    found = load_workflows(settings, page_files)
    assert set(found) == {"postcard", "lego-tiny", "lego-tiny-img2img"}
    assert settings.default_workflow in found


def test_the_workflow_page_knows_every_kind_and_type() -> None:
    """No kind of node, argument, output or type of input is left out."""
    words = set(re.findall(r"`(\w+)`", PAGE))
    arguments = {name for kind in KINDS.values() for name in (*kind.arguments, *kind.outputs)}
    assert {*KINDS, *arguments, *INPUT_TYPES} <= words


def test_the_readme_stays_short_and_its_examples_are_in_the_guide() -> None:
    """140 lines at most; the tests above find the four examples in Python and the ten commands."""
    assert len(README.splitlines()) <= 140
    assert len(PYTHON) == 4
    assert len(COMMANDS) == 10


def anchors(page: Path) -> set[str]:
    """The names that Markdown viewers give the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading of that page where it has one."""
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    places = [(page.parent.joinpath(file) if file else page, heading) for file, _, heading in links]
    assert not [str(file) for file, _ in places if not file.exists()]
    assert not [f"{file}#{heading}" for file, heading in places if heading and heading not in anchors(file)]


def test_modules_that_pages_run_exist() -> None:
    """Every ``python -m`` names a module that can be run; the changelog has old names too."""
    text = "".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    modules = set(re.findall(r"python -m ((?:lego_serve|loadgen|benchmarks)[\w.]*)", text))
    paths = [ROOT / module.replace(".", "/") for module in modules]
    assert not [path for path in paths if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()]
