"""The Dockerfile, as far as it can be checked without building it."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath

import pytest

from lego_serve.config import load

ROOT = Path(__file__).parent.parent
TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
STEPS = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
COPIED = [source for word, rest in STEPS if word == "COPY" for source in rest.split()[:-1]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def argument_of(word: str) -> str:
    """What follows an instruction that stands there once."""
    [rest] = [rest for instruction, rest in STEPS if instruction == word]
    return rest


def health_check() -> list[str]:
    """The command of the health check."""
    command: list[str] = json.loads(argument_of("HEALTHCHECK").partition("CMD ")[2])
    return command


@pytest.fixture
def status() -> Iterator[list[int]]:
    """A server on a free port, as [port, what it answers at /health/ready]."""
    state = [0, 200]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(state[1] if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    state[0] = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def test_everything_that_is_copied_exists_and_is_let_through() -> None:
    """Each source is there, and .dockerignore lets these through and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [source for source in COPIED if not (ROOT / source).exists()] == []
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == set(COPIED)


def test_what_the_package_is_built_from_is_copied() -> None:
    """The folders setuptools looks in, the README and the licence."""
    tools = PROJECT["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in tools["packages"]["find"]["include"]]
    places = [where for where in tools["packages"]["find"].get("where", ["."]) if where != "."]
    wanted = {name for name in packages if (ROOT / name).is_dir()} | set(places)
    assert wanted | {"pyproject.toml", "constraints.txt", "LICENSE", PROJECT["project"]["readme"]} <= set(COPIED)


def test_the_health_check_is_python_that_tells_ready_from_not(status: list[int]) -> None:
    """It compiles; 200 is status 0, and 503 or no answer is not."""
    program, flag, code = health_check()
    assert (program, flag) == ("python", "-c")
    compile(code, "health check", "exec")
    here = code.replace(":8000/", f":{status[0]}/")
    ready = subprocess.run([sys.executable, "-c", here], capture_output=True, check=False).returncode
    status[1] = 503
    starting = subprocess.run([sys.executable, "-c", here], capture_output=True, check=False).returncode
    gone = subprocess.run([sys.executable, "-c", code.replace(":8000/", ":9/")], capture_output=True, check=False)
    assert (ready, starting, gone.returncode) == (0, 1, 1)


def test_it_runs_the_packages_command_with_a_copied_file() -> None:
    """The entry point is a script of the project, its default argument a configuration on the exposed port."""
    [entry] = json.loads(argument_of("ENTRYPOINT"))
    assert entry in PROJECT["project"]["scripts"]
    subcommand, path = json.loads(argument_of("CMD"))
    first = next(rest for word, rest in STEPS if word == "WORKDIR")
    settings = load(ROOT / PurePosixPath(path).relative_to(first))
    assert subcommand == "serve"
    assert argument_of("EXPOSE") == str(settings.server.port)
    assert f":{settings.server.port}/" in health_check()[2]


def test_it_runs_as_nobody_special_with_a_home() -> None:
    """A user of its own is made and taken before the command."""
    words = [word for word, _ in STEPS]
    user = argument_of("USER")
    [made] = [rest for word, rest in STEPS if word == "RUN" and "useradd" in rest]
    assert made.endswith(f" {user}")
    assert "--create-home" in made
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_packages_are_held_to_the_constraints() -> None:
    """Every pip command names the file; torch's index can be chosen."""
    installs = [rest for word, rest in STEPS if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("-c constraints.txt" in rest for rest in installs)
    assert any(rest.startswith("TORCH_INDEX=") for word, rest in STEPS if word == "ARG")
