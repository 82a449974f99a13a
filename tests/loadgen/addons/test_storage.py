import json
from pathlib import Path

import pytest
import yaml

from loadgen.addons.plan import ADDONS_PLAN
from loadgen.addons.storage import SLOW_STORAGE
from tests.support.loadgen.pools import storage

CONFIG = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    nodes: {backbone: {replicas: {min: 2, max: 2}}}
    adapters: {roots: ["builtin:adapters"], mode: grouped}
    controlnets: {lego-tiny-outline: {path: "builtin:lego-tiny-outline"}}
workflows: [lego-tiny, own.yaml]
"""


def config_file(folder: Path) -> Path:
    config = folder / "tiny.yaml"
    config.write_text(CONFIG)
    (folder / "own.yaml").write_text("")
    return config


def test_both_systems_keep_the_same_bytes_and_wait_as_long(tmp_path: Path) -> None:
    """All processes of a system together keep the same bytes, and a load takes the same seconds."""
    simulated = storage(tmp_path)
    simulated.set(0.5)
    baseline = json.loads(simulated.baseline_file(2).read_text())
    derived = simulated.lego_config(config_file(tmp_path), "lego-tiny")
    lego = yaml.safe_load(derived.read_text())["models"]["lego-tiny"]
    environment = simulated.lego_environment()
    assert baseline["adapter_load_s"] == float(environment["LOADGEN_ADAPTER_LOAD_S"]) == pytest.approx(0.4)
    assert baseline["controlnet_load_s"] == float(environment["LOADGEN_CONTROLNET_LOAD_S"]) == 0.05
    # Two backbones and the LoRA node of lego_serve, two replicas of the baseline.
    kept = lego["adapters"]["cache_bytes"] + 2 * lego["adapters"]["replica_cache_bytes"]
    assert kept == pytest.approx(2 * baseline["adapter_bytes"], abs=3)
    controlnet_bytes = ADDONS_PLAN.controlnet_places * 1000
    assert 2 * lego["controlnet_cache_bytes"] == 2 * baseline["controlnet_bytes"] == controlnet_bytes
    assert lego["adapters"]["early_start"] is False
    assert lego["adapters"]["mode"] == "grouped"
    assert len(lego["controlnets"]) == ADDONS_PLAN.controlnets


def test_the_configuration_knows_nothing_of_the_slow_storage(tmp_path: Path) -> None:
    """The server reads the same configuration however slow the storage is; its own workflow files are still found."""
    simulated = storage(tmp_path)
    config = config_file(tmp_path)
    before = simulated.lego_config(config, "lego-tiny").read_text()
    simulated.set(0.5)
    assert simulated.lego_config(config, "lego-tiny").read_text() == before
    assert yaml.safe_load(before)["workflows"] == ["lego-tiny", str(tmp_path / "own.yaml")]


def test_the_environment_puts_the_slow_storage_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder with ``sitecustomize`` precedes what was on the path before."""
    simulated = storage(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "one:two")
    assert simulated.lego_environment()["PYTHONPATH"] == f"{SLOW_STORAGE}:one:two"
    monkeypatch.delenv("PYTHONPATH")
    assert simulated.lego_environment()["PYTHONPATH"] == str(SLOW_STORAGE)
    assert (SLOW_STORAGE / "sitecustomize.py").is_file()


def test_a_running_baseline_reads_another_load_time(tmp_path: Path) -> None:
    """The seconds change in the file that its replicas read, its bytes do not."""
    simulated = storage(tmp_path)
    file = simulated.baseline_file(1)
    before = json.loads(file.read_text())
    simulated.set(1.0)
    after = json.loads(file.read_text())
    assert (before["adapter_load_s"], after["adapter_load_s"]) == (0.0, 0.8)
    assert before["adapter_bytes"] == after["adapter_bytes"] == 20 * 250
