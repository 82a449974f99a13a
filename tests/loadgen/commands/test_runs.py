import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadgen.__main__ import app
from loadgen.commands import measuring
from loadgen.commands import sweep as sweeping
from loadgen.mock_server import MockServer, MockSettings, ServiceTimes
from loadgen.runs.target import Target, connected
from tests.support.loadgen.serving import serving
from tests.support.loadgen.virtual_time import VirtualLoop

SIZE = ("--size", "8x8")


SERVER = MockSettings(ServiceTimes(0.005, 0.001), models=("one", "two"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of one worker that takes 5 ms for each image, and 1 ms for each step."""
    with serving(SERVER) as found:
        yield found


@pytest.fixture
def virtual_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """The same server in this process and in virtual time, which nothing that holds this machine up makes longer."""

    def opened(target: Target) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(MockServer(SERVER).app), base_url=target.url)

    monkeypatch.setattr(Target, "open", opened)
    monkeypatch.setattr(measuring, "connected", partial(connected, loop_factory=VirtualLoop))
    return "http://mock"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def trace(folder: Path, **extra: object) -> Path:
    path = folder / "trace.jsonl"
    lines = [
        {"timestamp": 20 * index, "payload": {"model": f"m{index % 3}", "prompt": "p", "size": "16x16", "seed": index}}
        for index in range(20)
    ]
    path.write_text("".join(json.dumps({**line, "extra": {"kind": "generation", **extra}}) + "\n" for line in lines))
    return path


def test_runs_are_written_compared_and_reported(virtual_url: str, tmp_path: Path) -> None:
    """An open and a closed loop leave results that can be compared with each other and shown on one page."""
    first, second, pages = tmp_path / "first", tmp_path / "second", tmp_path / "pages"
    words: tuple[str, ...] = ("--rate", "60", "--requests", "40", "--slo", "20x", "--json")
    done = run("run", "--url", virtual_url, *words, *SIZE, "--out", first)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == summary(first)
    assert summary(first)["requests"] == 40
    assert summary(first)["by_workflow"].keys() == {"one"}
    words = ("--requests", "15", "--steps", "120", "--slo", "900ms", "--warm-up", "0")
    done = run("run", "--url", virtual_url, "--closed", "3", *words, *SIZE, "--model", "two", "--out", second)
    assert done.exit_code == 0, done.output
    assert "answered in time" in done.stdout
    assert len((second / "requests.jsonl").read_text().splitlines()) == 15

    assert run("diff", first, first).exit_code == 0
    worse = run("diff", first, second, "--json")
    assert worse.exit_code == 1
    told = json.loads(worse.stdout)
    assert not told["paired"]
    assert "mean" in told["worse"]
    assert run("diff", first, second, "--gate", "failures").exit_code == 0

    assert run("report", first, second, "--out", pages).exit_code == 0
    page = (pages / "report.html").read_text()
    assert page.count("<svg") == 5
    assert not re.search(r"""(src|href)=|<script|@import|url\(""", page)
    markdown = (pages / "report.md").read_text()
    assert "| two" not in markdown
    assert "# second" in markdown
    assert "| 200 | 15 |" in markdown


def test_traces_are_replayed_with_their_mix(url: str, tmp_path: Path) -> None:
    """A replay sends a trace's requests with the server's models, edits and masks, when they are due."""
    out = tmp_path / "out"
    path = trace(tmp_path, slo_ms=2000, controlnets=["c"])
    mix = ("--model", "one", "--model", "two", "--controlnet", "edge", "--edit-share", "0.3", "--inpaint-share", "0.3")
    done = run("replay", path, "--url", url, "--speedup", "2", "--out", out, *mix)
    assert done.exit_code == 0, done.output
    found = summary(out)
    assert found["answered"] == 20
    assert found["by_kind"].keys() == {"generation", "edit", "inpaint"}
    assert found["by_workflow"].keys() == {"m0", "m1", "m2"}
    outcomes = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    assert [outcome["due_s"] for outcome in outcomes] == pytest.approx([0.01 * index for index in range(20)])
    again = tmp_path / "again"
    assert (
        run("run", "--url", url, "--trace", path, "--speedup", "2", "--window", "0.1:", "--out", again).exit_code == 0
    )
    assert summary(again)["requests"] == 15


def test_a_sweep_finds_a_limit(virtual_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep ends with a rate, its interval, and reports; two sweeps are compared by their limits."""
    monkeypatch.setattr(sweeping, "FEWEST", 30)
    out = tmp_path / "out"
    words = ("--start", "60", "--seconds", "0.2", "--repeats", "2", "--resolution", "1.3", "--slo", "250ms")
    done = run("sweep", "--url", virtual_url, "--out", out, *words, *SIZE)
    assert done.exit_code == 0, done.output
    limit = summary(out)["limit"]
    assert 0 < limit["low_rps"] <= limit["rate_rps"] <= limit["high_rps"]
    assert "confidence interval" in done.stdout
    assert "<svg" in (out / "report.html").read_text()
    assert run("diff", out, out).exit_code == 0


def test_a_sweep_refuses_a_busy_machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine does not become idle, as was asked for, nothing is judged and nothing written."""
    monkeypatch.setattr(sweeping, "busy_share", lambda seconds: 0.8)
    monkeypatch.setattr(sweeping, "WAIT_S", -1.0)
    done = run("sweep", "--url", url, "--slo", "5x", *SIZE, "--require-idle", "0.3", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "80% of this machine's cores is busy" in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_input_ends_with_one_line(url: str, tmp_path: Path) -> None:
    """What cannot work is one line that names the object, and exit code 2."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"timestamp":0,"payload":{"prompt":"a"}}\n{"timestamp":1}\n')
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    for words, says in (
        (["replay", bad, "--url", url], f"{bad}:2: field `payload`: is missing"),
        (["run", "--url", "localhost", "--rate", "1"], "'localhost' is no URL"),
        (["sweep", "--url", url, *SIZE], "a sweep needs an objective"),
        (["diff", bad, bad], f"{bad / 'config.json'}: Not a directory"),
        (["report", tmp_path], f"{tmp_path / 'summary.json'}: is no summary"),
    ):
        done = run(*words, *(() if words[0] in ("diff", "report") else ("--out", tmp_path / "out")))
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(says), done.stderr
        assert done.stderr.count("\n") == 1


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Where nobody listens the command says so in one line."""
    done = run("run", "--url", "http://127.0.0.1:9", "--rate", "1", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("nothing answers at http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--rate", "1", "--arrivals", "gamma"], "gamma:CV"),
        (["run", "--rate", "1", "--arrivals", "onoff:3"], "onoff:SECONDS_ON:SECONDS_OFF"),
        (["run", "--rate", "1", "--slo", "soon"], "2500ms, 2.5s or 5x"),
        (["run", "--rate", "1", "--closed", "2"], "either --rate or --closed"),
        (["run"], "either --rate or --closed"),
        (["replay", "x", "--masks", "round"], "tryon"),
        (["diff", "a", "b", "--gate", "speed"], "attainment"),
    ],
)
def test_wrong_options_are_refused(words: list[str], says: str) -> None:
    """Options that say nothing sensible are refused with what there is."""
    done = run(*words)
    assert done.exit_code == 2
    assert says in re.sub(r"[│\s]+", " ", done.output)
