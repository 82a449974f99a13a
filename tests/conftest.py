"""Shared fixtures: model folders made once a session, and one real server for the tests that need it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.e2e.faults.sitecustomize import HOLD_READS, STEPS_LOG
from tests.support.e2e.servers import CRASHES, FAULTS, OneServer, Server, running
from tests.support.plugins.time_budget import SECONDS, TimeBudget

gc.disable()  # until all is collected: what modules and tests allocate meanwhile stays
# The Makefile collects no others.
SERVED = (
    "tests/chaos/",
    "tests/e2e/",
    "tests/gateway/test_large_bodies.py",
    "tests/loadgen/baselines/test_monolith.py",
    "tests/test_readme.py",
)
# Long ones that every change has to pass: a client, and two thousand requests from the OpenAPI document.
PROMISED = ("tests/e2e/clients/test_openai_clients.py", "tests/gateway/test_openapi.py")
SERVERS = ("server", "addons", "crashes")  # the fixtures of servers that several tests share
# On a busy machine an example may take any time; that says nothing of what it shows.
settings.register_profile(
    "busy",
    deadline=None,
    max_examples=int(os.environ.get("LEGO_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Bound the time of a run where that is asked for."""
    if SECONDS in os.environ:
        config.pluginmanager.register(TimeBudget(float(os.environ[SECONDS]), PROMISED))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse tests that need Ray where `make test` would not look for them: beside others two Rays would start."""
    marks = {mark.name for mark in item.iter_markers()}
    if marks & {"ray", "alone"} and "long" not in marks:
        place = item.path.relative_to(item.config.rootpath).as_posix()
        assert place.startswith(SERVED), (
            f"{item.nodeid}: move it to tests/e2e, or add its file to SERVED, here and in Makefile"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests of each shared server side by side, so that it starts once and stops before the next.

    Those that `make chaos` alone runs are left out elsewhere.
    """
    if "LEGO_CHAOS" not in os.environ:
        left_out = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=_uses)


def _uses(item: pytest.Item) -> list[bool]:
    """Which of the shared servers a test needs."""
    needs_server = item.get_closest_marker("ray") is not None
    return [needs_server and name in getattr(item, "fixturenames", ()) for name in SERVERS]


def pytest_collection_finish() -> None:
    """Compute on one thread, so that a sum has the same bits on every machine; tests/core never imports torch.

    What is imported and collected now stays: no garbage collection need look at its million of objects again.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lego-tiny's architecture with random weights, in fp32, as a diffusers folder."""
    import torch

    from lego_serve.zoo.export import export
    from tests.support.tiny_models import untrained

    folder = tmp_path_factory.mktemp("tiny")
    export(untrained(), folder, torch.float32, max_bytes=64_000_000)
    return folder


@pytest.fixture(scope="session", params=("flux-dev", "flux-schnell"))
def flux_form(request: pytest.FixtureRequest) -> str:
    """A miniature FLUX: with guidance told and the shift by size (dev), or with neither (schnell)."""
    return str(request.param)


@pytest.fixture(scope="session")
def flux_folder(flux_form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in diffusers' format."""
    from tests.support.tiny_models import flux_miniature

    place = tmp_path_factory.mktemp(flux_form)
    flux_miniature(flux_form).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def one_server() -> Iterator[OneServer]:
    """What starts and stops the servers that tests share, one at a time."""
    running_now = OneServer()
    yield running_now
    running_now.stop()


@pytest.fixture(scope="module")
def server(one_server: OneServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The default deployment with two gateways, which speak the foreign protocols too."""
    text = (Path(__file__).parents[1] / "configs" / "tiny.yaml").read_text() + "compat: [a1111, comfyui]\n"
    return one_server.get("default", lambda: running(tmp_path_factory.mktemp("server"), gateways=2, text=text))


@pytest.fixture(scope="session")
def steps_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which `crashes` writes down the steps that it begins."""
    return tmp_path_factory.mktemp("steps") / "steps.log"


@pytest.fixture(scope="session")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that makes the lanes of `crashes` wait with reading their inputs while it exists."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def crashes(one_server: OneServer, tmp_path_factory: pytest.TempPathFactory, steps_log: Path, hold: Path) -> Server:
    """A server of two backbone replicas that tests kill, with room for a few templates' entries in each."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STEPS_LOG, str(steps_log))
        environment.setenv(HOLD_READS, str(hold))
        return one_server.get("crashes", lambda: running(tmp_path_factory.mktemp("crashes"), 1, FAULTS, CRASHES))


@pytest.fixture(autouse=True)
def no_log_of_a_server_is_left() -> Iterator[None]:
    """A server that a test starts in this process logs to the test's own stderr, which is closed after it."""
    yield
    root = logging.getLogger()
    for handler in [each for each in root.handlers if type(each.formatter).__name__ == "JsonFormatter"]:
        root.removeHandler(handler)


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
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run
