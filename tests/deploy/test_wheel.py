"""The wheel is the whole product: installed beside its dependencies alone, far from a checkout, it serves."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import httpx2
import pytest

from lego_serve.cli.demo import free_port, stop
from tests.support.e2e.images import PROMPT, pixels

ROOT = Path(__file__).parents[2]
BUILT = ("lego_serve", "loadgen", "kernels", "pyproject.toml", "README.md", "LICENSE")
NEEDED = (
    "lego_serve/py.typed",
    "lego_serve/tiny.yaml",
    "lego_serve/workflows/lego-tiny.yaml",
    "lego_serve/gateway/ui/static/play.html",
    "lego_serve/zoo/weights/",
    "lego_kernels/py.typed",
    "loadgen/",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that nothing of a checkout gets into it or is left there."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in BUILT:
        place = ROOT / name
        copy = shutil.copytree if place.is_dir() else shutil.copy2
        copy(place, source / name)  # type: ignore[operator]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_has_weights_pages_and_workflows_and_no_tests(wheel: Path) -> None:
    """What a server reads at run time is data of the package."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    for needed in NEEDED:
        assert any(name.startswith(needed) for name in names), needed
    assert any(name.endswith(".safetensors") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/")) or ".pyc" in name]


def without_checkout() -> dict[str, str]:
    """The environment of somebody who has none."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that has the wheel, and otherwise only what this one has installed."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q"]
    # What is searched after the wheel's own; `.pth` files there, by which a checkout may be installed, are not read.
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], env=without_checkout(), cwd=folder, check=True)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.ray
@pytest.mark.long
def test_an_installed_wheel_serves(installed: Path, tmp_path: Path) -> None:
    """As a newcomer runs it: in an empty folder, without a configuration."""
    environment = without_checkout()
    where = subprocess.run(
        [installed / "python", "-c", "import lego_serve; print(lego_serve.__file__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [installed / "lego-serve", "serve", "--port", str(port)],
            env=environment,
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + 300
        while "ready in" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/images/generations", json={"prompt": PROMPT}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert pixels(answer.json()["data"][0]).std() > 10
        assert httpx2.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 200
    finally:
        assert not stop(server)
