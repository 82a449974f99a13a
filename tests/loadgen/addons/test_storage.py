import json
from pathlib import Path

import pytest
import yaml

from loadgen.addons.plan import ADDONS_PLAN
from tests.support.pools import storage

CONFIG = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    nodes: {backbone: {replicas: {min: 2, max: 2}}}
    adapters: {roots: ["builtin:adapters"], mode: grouped}
    controlnets: {lego-tiny-outline: {path: "builtin:lego-tiny-outline"}}
"""


def test_both_sides_keep_the_same_bytes_and_wait_as_long(tmp_path: Path) -> None:
    """All processes of a side together keep the same bytes, and a load takes the same seconds."""
    place = storage(tmp_path)
    place.set(0.5)
    theirs = json.loads(place.baseline_file(2).read_text())
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    ours = yaml.safe_load(place.lego_config(config, "lego-tiny").read_text())["models"]["lego-tiny"]
    assert theirs["adapter_load_s"] == ours["adapters"]["storage_s"] == pytest.approx(0.4)
    nets = ours["controlnets"].values()
    assert {net["storage_s"] for net in nets} == {theirs["controlnet_load_s"]} == {0.05}
    # Two backbones and the LoRA node there, two replicas here.
    kept = ours["adapters"]["cache_bytes"] + 2 * ours["adapters"]["replica_cache_bytes"]
    assert kept == pytest.approx(2 * theirs["adapter_bytes"], abs=3)
    assert 2 * ours["controlnet_cache_bytes"] == 2 * theirs["controlnet_bytes"] == ADDONS_PLAN.controlnet_places * 1000
    assert ours["adapters"]["early_start"] is False
    assert ours["adapters"]["mode"] == "grouped"
    assert len(nets) == ADDONS_PLAN.controlnets


def test_a_running_baseline_hears_of_another_storage(tmp_path: Path) -> None:
    """The seconds change in the file that its replicas read, its bytes do not."""
    place = storage(tmp_path)
    file = place.baseline_file(1)
    before = json.loads(file.read_text())
    place.set(1.0)
    after = json.loads(file.read_text())
    assert (before["adapter_load_s"], after["adapter_load_s"]) == (0.0, 0.8)
    assert before["adapter_bytes"] == after["adapter_bytes"] == 20 * 250
