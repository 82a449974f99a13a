"""The Dockerfile, as far as it can be checked without building it."""

import json
import re
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath

import pytest

from lego_serve.config import load

ROOT = Path(__file__).parent.parent
TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
STEPS = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
COPIED = {source for word, rest in STEPS if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in STEPS:
        if word == "FROM":
            steps = found.setdefault(rest.split()[-1], [])
        elif found:
            steps.append((word, rest))
    return found


def argument_of(stage: str, word: str) -> str:
    """What follows an instruction that stands once in a stage."""
    [rest] = [rest for instruction, rest in stages()[stage] if instruction == word]
    return rest


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
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == COPIED


def test_what_the_package_is_built_from_is_copied() -> None:
    """The folders setuptools looks in, the README and the licence."""
    tools = PROJECT["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in tools["packages"]["find"]["include"]]
    places = [where for where in tools["packages"]["find"].get("where", ["."]) if where != "."]
    wanted = {name for name in packages if (ROOT / name).is_dir()} | set(places)
    assert wanted | {"pyproject.toml", "constraints.txt", "LICENSE", PROJECT["project"]["readme"]} <= COPIED


def test_the_health_check_tells_ready_from_not(
    status: list[int], command: Callable[..., tuple[object, str, str]]
) -> None:
    """200 is status 0, and 503 or no answer is not; one line says which."""
    program, *words = json.loads(argument_of("run", "HEALTHCHECK").partition("CMD ")[2])
    assert (program, words) == ("lego-serve", ["health"])
    url = f"http://127.0.0.1:{status[0]}"
    assert command("health", "--url", url)[0] == 0
    status[1] = 503
    assert command("health", "--url", url)[::2] == (1, f"error: {url}: not ready: Service Unavailable\n")
    assert command("health", "--url", "http://127.0.0.1:9")[0] == 1


def test_each_image_runs_a_command_of_the_package() -> None:
    """The worker, the default target, with a copied file on the exposed port; the gateway with a mounted one."""
    [entry] = json.loads(argument_of("run", "ENTRYPOINT"))
    assert entry in PROJECT["project"]["scripts"]
    assert list(stages())[-1] == "worker"
    subcommand, path = json.loads(argument_of("worker", "CMD"))
    settings = load(ROOT / PurePosixPath(path).relative_to("/opt/lego-serve"))
    assert subcommand == "serve"
    assert argument_of("run", "EXPOSE") == str(settings.server.port)
    assert json.loads(argument_of("gateway", "CMD"))[0] == "gateway"


def test_both_run_as_a_user_with_a_number_and_a_home() -> None:
    """Kubernetes refuses an image whose user is a name, where root is not allowed."""
    [made] = [rest for word, rest in stages()["run"] if word == "RUN"]
    for stage in ("gateway", "worker"):
        assert argument_of(stage, "USER") == "10001:10001"
    assert "useradd --create-home --uid 10001" in made


def test_packages_are_held_to_the_constraints_and_compiled() -> None:
    """Every pip command names the file; torch's index can be chosen; the gateway has no torch."""
    needs = argument_of("needs", "RUN")
    for stage, extras in (("gateway", "otel"), ("worker", "worker otel")):
        steps = stages()[f"build-{stage}"]
        installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
        assert all("-c constraints.txt" in rest for rest in installs)
        assert f"requirements.py {extras} > {stage}.txt" in needs
        assert ("COPY", f"--from=needs /build/{stage}.txt requirements.txt") in steps
        assert "compileall" in steps[-1][1]


def test_another_version_of_the_package_installs_no_package_again() -> None:
    """What changes with it is copied after all that others wrote: layers are kept by what is copied."""
    for stage in ("build-gateway", "build-worker"):
        words = [f"{word} {rest}" for word, rest in stages()[stage]]
        own = next(index for index, step in enumerate(words) if step.startswith("COPY pyproject.toml"))
        assert all("--no-deps" in step for step in words[own:] if "pip install" in step)
        assert sum("pip install" in step for step in words[:own]) >= 1


def test_the_worker_can_have_another_torch() -> None:
    """Its index is an argument, and the extra names what it needs."""
    assert argument_of("build-worker", "ARG").startswith("TORCH_INDEX=")
    assert {"torch", "diffusers", "transformers"} <= {
        re.split(r"[<>=]", name)[0] for name in PROJECT["project"]["optional-dependencies"]["worker"]
    }
