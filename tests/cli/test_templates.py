"""``lego-serve templates list | show | add | warm | rm`` against a gateway in a thread."""

import io
from pathlib import Path

import pytest
from PIL import Image

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image's file."""
    out = io.BytesIO()
    Image.new("RGB", (128, 96)).save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())
    return str(tmp_path / "a.png")


def test_a_template_is_added_listed_warmed_and_removed(command, image: str, tmp_path: Path) -> None:
    """Each says what it did, in one line or a row."""
    runner = FakeRunner()
    kept = TemplateSettings(tmp_path / "templates", 2, 100_000, {"lego-tiny": 300_000})
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny", templates=kept), Metrics())) as url:
        code, out, _ = command("templates", "add", image, "--name", "mine", "--pin", "--url", url)
        name = out.partition(":")[0]
        assert (code, out) == (0, f"{name}: mine, 128x96, 96000 bytes of activations\n")
        code, out, _ = command("templates", "list", "--url", url)
        rows = [line.replace("│", " ").split() for line in out.splitlines() if name in line]
        assert rows == [[name, "mine", "lego-tiny", "128x96", "yes", "96000"]]
        code, out, _ = command("templates", "show", name, "--url", url)
        assert (code, out.splitlines()) == (
            0,
            [
                f"{name}: mine, 128x96, for lego-tiny",
                "caption: -",
                "pinned: yes",
                "bytes: 96000",
                "replicas: r2 (5000 bytes)",
            ],
        )
        code, out, _ = command("templates", "warm", name, "--steps", "8", "--wait", "--url", url)
        assert (code, out) == (0, f"{name}: warmed by 0 passes, 38400 bytes in all\n")
        assert [job.inputs["steps"] for job in runner.jobs] == [8]
        code, out, _ = command("templates", "warm", name, "--caption", "black", "--wait", "--url", url)
        assert (code, out) == (0, f"{name}: warmed by 0 passes, 172800 bytes in all\n")
        assert [job.inputs["caption"] for job in runner.jobs] == ["", "black"]
        code, out, _ = command("templates", "rm", name, "--url", url)
        assert (code, out) == (0, f"{name}: removed\n")
        code, _, error = command("templates", "rm", name, "--url", url)
        assert (code, error) == (1, "error: There is no template of this id.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "/nonexistent.png"], "cannot be read"),
        (["list", "--url", "http://127.0.0.1:1"], "nothing answers"),
        (["rm", "tmpl_0", "--key", "\u00e9"], "no such letters"),
    ],
)
def test_what_goes_wrong_is_one_line(command, words: list[str], message: str) -> None:
    """And exit status 1."""
    code, _, error = command("templates", *words)
    assert (code, error.count("\n")) == (1, 1)
    assert message in error


def test_a_template_is_added_with_a_caption(command, image: str, tmp_path: Path) -> None:
    """Which primes what is warmed: another entry a step, of the image's rows alone."""
    runner = FakeRunner()
    kept = TemplateSettings(tmp_path / "templates", 2, 100_000, {"lego-tiny": 300_000})
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny", templates=kept), Metrics())) as url:
        code, out, _ = command("templates", "add", image, "--caption", "a black wall", "--warm", "--url", url)
        assert (code, out.partition(", ")[2]) == (0, "128x96, 172800 bytes of activations\n")
    assert [job.inputs["caption"] for job in runner.jobs] == ["a black wall"]
