"""``lego-serve adapters``: against a gateway in a thread, and on the model itself."""

import json
from pathlib import Path

import pytest

from lego_serve.core.nodes.requests import ListAdapters, RegisterAdapter, RemoveAdapter, ShowAdapter
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec, built_in_folder
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner
from tests.support.lora.adapters import diffusers_names, products, saved

CONFIG = """
models:
  m:
    path: "{model}"
    max_sequence_length: 0
    dtype: float32
    adapters: {{roots: ["{root}"], profiles: "{profiles}"}}
  plain: {{path: "builtin:lego-tiny", max_sequence_length: 0}}
"""


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> Path:
    """A model of random weights with one adapter that hardly changes it and one that does."""
    base = base_layers(ModelSpec("m", str(tiny_folder), max_sequence_length=0))
    (tmp_path / "root").mkdir()
    saved(diffusers_names(products(base, 1, strength=1e-4, only="attn.to_q")), tmp_path / "root", "faint")
    saved(diffusers_names(products(base, 2, strength=1.0, only="transformer.")), tmp_path / "root", "strong")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(model=tiny_folder, root=tmp_path / "root", profiles=tmp_path / "profiles"))
    return path


def test_an_operator_lists_the_adapters_of_a_server(command) -> None:
    """A row each with what is known of it; a server that is not there is one line."""
    runner = FakeRunner()
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as url:
        code, out, _ = command("adapters", "list", "--url", url)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "lego-tiny" in line]
    assert (code, rows) == (
        0,
        [
            ["a", "lego-tiny", "no", "32", "2000", "unknown"],
            ["b", "lego-tiny", "yes", "4", "1000", "lora, backbone:r1"],
        ],
    )
    assert out.splitlines()[-1] == "passed over: My Style.safetensors. Its name is no id: register it."
    assert runner.adapter_requests == [(None, ListAdapters())]
    code, _, error = command("adapters", "list", "--url", "http://127.0.0.1:1")
    assert (code, error.count("\n")) == (1, 1)
    assert "nothing answers" in error


def test_an_operator_registers_shows_and_removes_an_adapter(command) -> None:
    """Each an order of the server, for the model that is named."""
    runner = FakeRunner()
    with Live(create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics())) as url:
        code, out, error = command("adapters", "register", "b", "more/b.safetensors", "--url", url)
        assert (code, out) == (0, "b: registered for lego-tiny, rank 4, 1000 bytes\n"), error
        code, out, _ = command("adapters", "show", "b", "--model", "lego-tiny", "--url", url)
        assert code == 0
        assert {"id: b", "registered: yes", "rank: 4", "resident: lora, backbone:r1"} <= set(out.splitlines())
        assert command("adapters", "remove", "b", "--url", url)[:2] == (0, "b: removed\n")
        code, _, error = command("adapters", "show", "nobody", "--url", url)
        assert (code, error) == (1, "error: There is no adapter of this name.\n")
    assert runner.adapter_requests == [
        (None, RegisterAdapter("b", "more/b.safetensors")),
        ("lego-tiny", ShowAdapter("b")),
        (None, RemoveAdapter("b")),
        (None, ShowAdapter("nobody")),
    ]


def test_a_profile_says_how_many_steps_may_pass_without_an_adapter(command, config: Path) -> None:
    """Nearly all of them without one that changes hardly anything, and none without one that changes everything."""
    few = ("--config", str(config), "--model", "m", "--steps", "4", "--size", "96", "--seeds", "1", "--prompt", "a")
    found = {}
    for name in ("faint", "strong"):
        code, out, error = command("adapters", "profile", name, *few)
        assert code == 0, error
        found[name] = json.loads((config.parent / "profiles" / f"{name}.profile.json").read_text())
        assert f"{found[name]['ratio']:.0%} of the steps" in out.replace("\n", "")
    assert (found["faint"]["first_step"], found["faint"]["ratio"]) == (None, 0.75)
    assert (found["strong"]["first_step"], found["strong"]["ratio"]) == (1, 0.0)
    assert all(len(profile["similarity"]) == profile["steps"] == 4 for profile in found.values())
    assert all(value < 0.99 for value in found["strong"]["similarity"])
    assert all(value > 0.99 for value in found["faint"]["similarity"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "There is no adapter nobody; there is damaged, faint, strong."),
        (["fant"], "There is no adapter fant; did you mean faint?"),
        (["../faint"], "There is no adapter of that name"),
        (["faint", "--model", "plain"], "no such model has `adapters`"),
        (["faint", "--model", "other"], "no such model has `adapters`"),
        (["damaged"], "Adapter damaged is an empty file."),
    ],
)
def test_what_cannot_be_profiled_is_one_line(command, config: Path, words: list[str], message: str) -> None:
    """Exit status 1, and no profile."""
    (config.parent / "root" / "damaged.safetensors").write_bytes(b"")
    code, _, error = command("adapters", "profile", *words, "--config", str(config))
    assert (code, error.count("\n")) == (1, 1)
    assert message in error
    assert not (config.parent / "profiles").exists()


def test_a_profile_of_an_adapter_of_the_package_is_written_elsewhere(command, tmp_path: Path) -> None:
    """Into the server's own folder, and never into the package."""
    path, own = tmp_path / "config.yaml", tmp_path / "data"
    model = "{path: builtin:lego-tiny, max_sequence_length: 0, dtype: float32, adapters: {roots: [builtin:adapters]}}"
    path.write_text(f"server: {{data: '{own}'}}\nmodels: {{lego-tiny: {model}}}\n")
    package = built_in_folder("builtin:adapters")
    before = sorted(package.rglob("*"))
    few = ("--config", str(path), "--steps", "2", "--size", "96", "--seeds", "1", "--prompt", "a")
    code, out, error = command("adapters", "profile", before[0].name, *few)
    assert code == 0, error
    assert [file.name for file in (own / "profiles").iterdir()] == [f"{before[0].name}.profile.json"]
    assert str(own) in out
    assert sorted(package.rglob("*")) == before
