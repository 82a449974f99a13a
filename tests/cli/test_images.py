"""``lego-serve edit`` against a gateway in a thread."""

from pathlib import Path

import pytest

from lego_serve.core.addons import AdapterRequest
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live, file_of, mask_of
from tests.support.gateway.runner import FakeRunner


def test_an_image_is_edited(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, words and numbers arrive as they are meant, and the file is of the kind that its name says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(file_of())
    (tmp_path / "mask.png").write_bytes(mask_of())
    runner = FakeRunner()
    words = ["--mask", "mask.png", "--caption", "a grey thing", "--seed", "7", "--steps", "5", "--lora", "b:0.5"]
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as url:
        code, out, error = command("edit", "a cat", "--image", "a.png", *words, "--out", "b.webp", "--url", url)
    assert (code, error) == (0, "")
    assert out.startswith("b.webp: 128x96, seed 7")
    assert (tmp_path / "b.webp").read_bytes()[8:12] == b"WEBP"
    inputs = runner.jobs[0].inputs
    assert [inputs[name] for name in ("prompt", "caption", "seed", "steps")] == ["a cat", "a grey thing", 7, 5]
    assert inputs["lora"] == (AdapterRequest("b", 0.5),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "give --image FILE or --template ID, one of them"),
        (["a", "--image", "a.png", "--template", "t"], "one of them"),
        (["a", "--image", "none.png"], "none.png: cannot be read: No such file"),
        (["a", "--template", "t", "--strength", "nan"], "--strength must be a finite number"),
        (["a", "--template", "t", "--out", "x.gif"], "must end in .png"),
        (["a", "--template", "t", "--url", "http://127.0.0.1:1"], "nothing answers at http://127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_one_line(command, words: list[str], message: str) -> None:
    """And exit status 1."""
    code, _, error = command("edit", *words)
    assert (code, error.count("\n")) == (1, 1)
    assert message in error
