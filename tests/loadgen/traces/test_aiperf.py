"""NVIDIA's aiperf 0.13 replays native traces as they are.  `LEGO_AIPERF` names the program, else it is installed."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.profiles import PROFILES
from loadgen.traces.record import Record, write_native
from loadgen.traces.synth import synthesise

VERSION = "0.13.0"
TOKENIZER = Path("lego_serve/zoo/weights/lego-tiny/tokenizer")  # counts words of prompts; others come from the network
ENDS_S = 240

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def aiperf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, in an environment of its own, because its pins exclude ours."""
    if given := os.environ.get("LEGO_AIPERF"):
        return given
    folder = tmp_path_factory.mktemp("aiperf")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", f"aiperf=={VERSION}"]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip(f"aiperf {VERSION} cannot be installed here")
    return str(folder / "bin" / "aiperf")


class Recorder(ThreadingHTTPServer):
    """Answers every image request at once and remembers its path, its body and when it came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.got: list[tuple[str, object, float]] = []


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, body, time.monotonic()))
        answer = json.dumps({"created": 0, "data": [{"b64_json": "aGk="}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["diflow", "gentd26"])
def test_aiperf_replays_a_trace_unmodified(name: str, aiperf: str, recorder: Recorder, tmp_path: Path) -> None:
    """Every payload arrives word for word, and as far apart as the trace's stamps."""
    records: list[Record] = list(to_records(synthesise(PROFILES[name], 24, 4.0, 0), Asking(adapters=("one",)), 0))
    trace = tmp_path / "trace.jsonl"
    write_native(trace, records)
    command = [aiperf, "profile", "--model", "any", "--url", f"http://127.0.0.1:{recorder.server_port}"]
    command += ["--endpoint-type", "image_generation", "--input-file", str(trace)]
    command += ["--custom-dataset-type", "mooncake-trace", "--fixed-schedule", "--ui-type", "none"]
    command += ["--tokenizer", str(TOKENIZER.absolute()), "--output-artifact-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ENDS_S, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    got = {json.dumps(body, sort_keys=True): at for _, body, at in recorder.got}
    sent = {json.dumps(dict(record.payload), sort_keys=True): record.at_s for record in records}
    assert got.keys() == sent.keys()
    assert {path for path, _, _ in recorder.got} == {"/v1/images/generations"}
    start = min(got.values())
    assert max(abs((got[body] - start) - at_s) for body, at_s in sent.items()) < 1.0
