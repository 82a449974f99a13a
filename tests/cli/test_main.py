"""The command line against a gateway in a thread, and its complaints: one line, exit status 1."""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from lego_serve import __version__
from lego_serve.cli import main
from lego_serve.core.addons import AdapterRequest, AdapterStats
from lego_serve.core.jobs.job import TaskStats
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner

NOT_TEXT = os.fsdecode(b"a\xff")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "a", "--out", "/nonexistent/x.png"], "there is no folder /nonexistent"),
        (["generate", "a", "--out", "/"], "must end in .png"),
        (["generate", "a", "--out", "x.gif"], "must end in .png, .jpg, .jpeg, .webp"),
        (["generate", "a", "--guidance", "nan"], "--guidance must be a finite number"),
        (["generate", NOT_TEXT], "no text"),
        (["generate", "a", "--negative", NOT_TEXT], "no text"),
        (["cancel", NOT_TEXT], "no text"),
        (["generate", "a", "--lora", "b:much"], "--lora b:much: after the colon comes a scale"),
        (["generate", "a", "--lora", "b:nan"], "--lora b:nan"),
        (["generate", "a", "--lora", NOT_TEXT], "no text"),
        (["generate", "a", "--controlnet", "edges"], "give NAME:FILE or NAME:FILE:WEIGHT"),
        (["generate", "a", "--controlnet", "edges:none.png"], "none.png cannot be read: No such file"),
        (["generate", "a", "--controlnet", "edges:none.png:half"], "half is no weight"),
        (["generate", "a", "--controlnet", "edges:/"], "/ cannot be read: Is a directory"),
        (["models", "--key", "é"], "API key"),
        (["models", "--url", "http://[::1"], "InvalidURL"),
        (["models", "--url", "http://127.0.0.1:1"], "nothing answers"),
        (["serve", "--port", "99999"], "no port 99999"),
        (["serve", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_a_wrong_command_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, exit status 1, and what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lego-serve", *words])
    monkeypatch.setattr("lego_serve.process.signals.StopSignal.install", lambda self: None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (1, 1)
    assert message in error


def test_an_operator_sees_a_job_and_cancels_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`jobs` names it in one line of its own, whole; `cancel` takes that name."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()

    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lego-serve", *words, "--url", url])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    with Live(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as url:
        request_id = "x" * 100
        ask = {"json": {"prompt": "a"}, "headers": {"x-request-id": request_id}, "timeout": 30}
        asking = threading.Thread(target=httpx2.post, args=(f"{url}/v1/images/generations",), kwargs=ask)
        asking.start()
        while not runner.waiting:
            threading.Event().wait(0.01)
        [line] = [line for line in command("jobs").splitlines() if f"job_{request_id}" in line]
        assert "lego-tiny" in line
        assert "latents running" in line
        assert "cancelled" in command("cancel", f"job_{request_id}")
        assert runner.asked_to_cancel == [f"job_{request_id}"]
        runner.loop.call_soon_threadsafe(runner.gate.set)
        asking.join()


def test_an_image_is_asked_for_with_adapters_and_controlnets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Several of each, their amounts after a colon; a file may have one in its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("map.png", "a:2"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    runner = FakeRunner()
    idle = AdapterStats("stripes", 0.5, hit=True, steps_active=0)
    runner.stats = {"latents": TaskStats(adapters=(idle,))}
    settings = GatewaySettings("lego-tiny", controlnets={"lego-tiny": frozenset({"edges", "depth", "lines"})})
    words = ["--lora", "stripes:0.5", "--lora", "pastel", "--controlnet", "edges:map.png:0.25"]
    words += ["--controlnet", "depth:map.png", "--controlnet", "lines:a:2"]
    with Live(create_app(runner, runner, settings, Metrics())) as url:
        monkeypatch.setattr(sys, "argv", ["lego-serve", "generate", "a", "--url", url, *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    inputs: Any = runner.jobs[0].inputs
    assert inputs["lora"] == (AdapterRequest("stripes", 0.5), AdapterRequest("pastel"))
    assert [(ask.name, ask.weight) for ask in inputs["controlnet"]] == [("edges", 0.25), ("depth", 1.0), ("lines", 1.0)]
    assert "stripes took part in none of the steps" in output.out


def test_the_version_is_told(command) -> None:
    """The one that the package has, and that the HTTP API names."""
    status, said, _ = command("--version")
    assert (status, said.strip()) == (0, f"lego-serve {__version__}")
