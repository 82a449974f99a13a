import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from loadgen.addons.storage import SLOW_STORAGE

LOAD_S = 0.2
LOADER = """
def load(name, *, fails=False):
    if fails:
        raise OSError(name)
    return name
"""
# What the server's processes call, under a slow storage: the first line of output is JSON.
SERVER = """
import json, pathlib, sys, time
from lego_serve.errors import NotFound
from lego_serve.models.controlnet import loading
from lego_serve.serving.caches import controlnet_cache
from lego_serve.serving.nodes.adapter_registry import AdapterRegistry
registry = AdapterRegistry([pathlib.Path(sys.argv[1])], limit=1)
slept = []
time.sleep = slept.append
registry.read("style")
read_s = slept.copy()
slept.clear()
registry.peek("style")
try:
    registry.read("missing")
except NotFound:
    pass
print(json.dumps({
    "read_s": read_s,
    "others_s": slept,
    "wraps_controlnets": hasattr(loading.load_controlnet, "__wrapped__"),
    "cache_uses_it": controlnet_cache.load_controlnet is loading.load_controlnet,
}))
"""


@pytest.fixture
def slow_storage() -> ModuleType:
    """The module under another name, which installs nothing as no variable is set."""
    spec = importlib.util.spec_from_file_location("slow_storage_under_test", SLOW_STORAGE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.meta_path)
    spec.loader.exec_module(module)
    assert sys.meta_path == before
    return module


@pytest.fixture
def loader_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with a function ``load``, not yet imported."""
    (tmp_path / "slowed_loader.py").write_text(LOADER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "slowed_loader"
    sys.modules.pop("slowed_loader", None)


def test_a_load_takes_so_much_longer(
    slow_storage: ModuleType, loader_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function still returns what it loads, and an error comes at once."""
    slept: list[float] = []
    monkeypatch.setattr(slow_storage, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(slow_storage, "SLOWED", {loader_module: ("load", "SECONDS"), "no.such.module": ("x", "OTHER")})
    slow_storage.install({"SECONDS": str(LOAD_S)})
    module = importlib.import_module(loader_module)
    assert module.load("style") == "style"
    assert slept == [LOAD_S]
    with pytest.raises(OSError, match="style"):
        module.load("style", fails=True)
    assert slept == [LOAD_S]


def test_a_function_whose_variable_is_not_set_is_left_alone(
    slow_storage: ModuleType, loader_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable nothing is installed."""
    monkeypatch.setattr(slow_storage, "SLOWED", {loader_module: ("load", "SECONDS")})
    before = list(sys.meta_path)
    slow_storage.install({"PATH": "/bin"})
    assert sys.meta_path == before
    assert not hasattr(importlib.import_module(loader_module).load, "__wrapped__")


def test_a_module_that_is_gone_is_an_error(slow_storage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement must not run with a storage that is as fast as the disk because a module was renamed."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(slow_storage, "SLOWED", {"no_such_module_here": ("load", "SECONDS")})
    slow_storage.install({"SECONDS": "1"})
    with pytest.raises(ModuleNotFoundError, match="slowed down"):
        importlib.import_module("no_such_module_here")


def test_the_server_loads_through_the_slowed_functions(tmp_path: Path) -> None:
    """Reading an adapter takes longer, its header and a missing one do not, and ControlNets go the same way."""
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "style.safetensors")
    path = os.pathsep.join([str(SLOW_STORAGE), str(Path(__file__).parents[3])])
    variables = {"LOADGEN_ADAPTER_LOAD_S": "0.7", "LOADGEN_CONTROLNET_LOAD_S": "0.1", "PYTHONPATH": path}
    process = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout.splitlines()[-1])
    assert (answer["read_s"], answer["others_s"]) == ([0.7], [])
    assert answer["wraps_controlnets"] is answer["cache_uses_it"] is True
