"""The command line against a gateway in a thread, and its complaints: one line, exit status 1."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from lego_serve import cli
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.gateway.conftest import FakeRunner
from tests.gateway.test_app import Live

NOT_TEXT = os.fsdecode(b"a\xff")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "a", "--out", "/nonexistent/x.png"], "there is no folder /nonexistent"),
        (["generate", "a", "--out", "/"], "must end in .png"),
        (["generate", "a", "--out", "x.gif"], "must end in .png, .jpg, .jpeg, .webp"),
        (["generate", "a", "--guidance", "nan"], "--guidance must be a finite number"),
        (["generate", NOT_TEXT], "no text"),
        (["generate", "a", "--negative", NOT_TEXT], "no text"),
        (["cancel", NOT_TEXT], "no text"),
        (["models", "--key", "é"], "API key"),
        (["models", "--url", "http://[::1"], "InvalidURL"),
        (["models", "--url", "http://127.0.0.1:1"], "nothing answers"),
        (["serve", "--port", "99999"], "no port 99999"),
        (["serve", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_a_wrong_command_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, exit status 1, and what is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lego-serve", *words])
    monkeypatch.setattr("lego_serve.stopping.Stopping.install", lambda self: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (1, 1)
    assert said in error


def test_an_operator_sees_a_job_and_cancels_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`jobs` names it in one line of its own, whole; `cancel` takes that name."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()

    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lego-serve", *words, "--url", url])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    with Live(create_app(runner, GatewaySettings("lego-tiny"), Metrics())) as url:
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
