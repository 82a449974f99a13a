"""Shared fixtures: model folders made once a session, and one real server for the tests that need it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from lego_serve.zoo.tiny_models import FLUX_MINIATURES, flux_miniature
from tests.support.servers import Server, running

torch.set_num_threads(1)
# On a busy machine an example may take any time; that says nothing of what it shows.
settings.register_profile(
    "busy",
    deadline=None,
    max_examples=int(os.environ.get("LEGO_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lego-tiny's architecture with random weights, in fp32, as a diffusers folder."""
    from lego_serve.zoo.export import export, untrained

    folder = tmp_path_factory.mktemp("tiny")
    export(untrained(), folder, torch.float32, max_bytes=64_000_000)
    return folder


@pytest.fixture(scope="session", params=FLUX_MINIATURES)
def flux_form(request: pytest.FixtureRequest) -> str:
    """A miniature FLUX: with guidance told and the shift by size (dev), or with neither (schnell)."""
    return str(request.param)


@pytest.fixture(scope="session")
def flux_folder(flux_form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in diffusers' format."""
    place = tmp_path_factory.mktemp(flux_form)
    flux_miniature(flux_form).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default deployment with two gateways, started once for all tests that need a real one."""
    with running(tmp_path_factory.mktemp("server"), gateways=2) as started:
        yield started


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs a command of lego-serve; answers its exit status, what it says and what it complains of."""
    from lego_serve.cli import main

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["lego-serve", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run
