"""The commands that start a server, as docs/operations.md and docs/telemetry.md have them, in a reader's folder."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from lego_serve.cli.demo import free_port, stop
from tests.support.docs.pages import ROOT, VARIABLES, shown
from tests.support.e2e.collector import collecting
from tests.support.e2e.servers import OneServer

pytestmark = [pytest.mark.ray, pytest.mark.long]
BODY = {"prompt": "a red circle", "num_inference_steps": 4}


def command_of(page: str, begins: str) -> str:
    """The one command of a page that begins so, of which more is said than its name."""
    commands = shown((ROOT / "docs" / page).read_text())
    [found] = [command for command in commands if re.match(rf"{VARIABLES}{begins} ", command)]
    return found


@contextmanager
def typed(line: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server that a command starts, and its address as it prints it; the reader's home is the folder."""
    words = shlex.split(line)
    variables: Mapping[str, str] = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
    command = [str(Path(sys.executable).parent / "lego-serve"), *words[len(variables) + 1 :]]
    environment = os.environ | variables | {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    out, limit = folder / "out", time.monotonic() + 400
    with out.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while not (told := re.search(r"^ready in .* s\n(http://[\w.:]+)/v1", out.read_text(), re.M)):
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < limit, "the server was not ready within 400 s"
            time.sleep(0.2)
        yield process, told[1]
    finally:
        left = stop(process)
        sys.stdout.write(out.read_text())
        assert not left, f"processes left behind: {left}"


def test_the_command_for_traces_sends_those_of_a_real_server(one_server: OneServer, tmp_path: Path) -> None:
    """To the collector in its line: a request, its job and its nodes are there within seconds of the answer."""
    one_server.stop()
    text = (ROOT / "configs" / "tiny.yaml").read_text()
    kept = f"gateways: 1, traces: true, data: {tmp_path / 'data'}"
    (tmp_path / "config.yaml").write_text(text.replace("gateways: 1", kept).replace("8000", str(free_port())))
    line = command_of("telemetry.md", "lego-serve serve")
    assert "collector:4318" in line
    with collecting() as collector:
        with typed(line.replace("collector:4318", collector.place), tmp_path) as (_, url):
            assert httpx2.post(f"{url}/v1/images/generations", json=BODY, timeout=120).status_code == 200
        spans = collector.spans()
    nodes = {"text_encode", "denoise", "decode", "POST /v1/images/generations"}
    assert {("lego_serve", name) for name in nodes} <= spans
    assert any(name.startswith("generate_content ") for _, name in spans)


def test_a_server_without_a_configuration_picks_a_port_and_is_stopped(one_server: OneServer, tmp_path: Path) -> None:
    """As the page has it, with what may be left out of it left out, but for the port: it answers, and ends with 0."""
    one_server.stop()
    line = command_of("operations.md", "lego-serve serve")
    assert line == "lego-serve serve [CONFIG] [--port PORT]"
    with typed("lego-serve serve --port 0", tmp_path) as (process, url):
        assert not url.endswith((":0", ":8000"))
        assert httpx2.post(f"{url}/v1/images/generations", json=BODY, timeout=120).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
