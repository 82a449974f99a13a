"""The storage of both systems' adapters and ControlNets: the same files, seconds a load, and bytes kept."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadgen.addons.plan import AddonsPlan
from loadgen.server_config import Settings, derive_config
from loadgen.traffic import ImageRequest

REPLICA_CACHE_SHARE = 1 / 8  # of all adapters' bytes, for each backbone replica; the LoRA node gets the rest
NET_WEIGHTS = "diffusion_pytorch_model.safetensors"
SLOW_STORAGE = Path(__file__).parent / "slow_storage"  # its sitecustomize slows the server's loads down


@dataclass(frozen=True, slots=True)
class AddonPool:
    """Folders of derived adapters (files) and ControlNets (folders)."""

    adapters: Path
    controlnets: Path

    @property
    def adapter_sizes(self) -> dict[str, int]:
        """Bytes of each adapter by its name."""
        return {file.stem: file.stat().st_size for file in sorted(self.adapters.glob("*.safetensors"))}

    @property
    def controlnet_sizes(self) -> dict[str, int]:
        """Bytes of each ControlNet's weights by its name."""
        return {file.parent.name: file.stat().st_size for file in sorted(self.controlnets.glob(f"*/{NET_WEIGHTS}"))}


class SimulatedStorage:
    """A storage whose load times can be set; ``out`` takes the files that configure both systems for it."""

    def __init__(self, plan: AddonsPlan, pool: AddonPool, plain_request: ImageRequest, out: Path) -> None:
        self._plan, self._pool, self._out = plan, pool, out
        self._request = plain_request
        self._plain_s = 0.0
        self._replicas = 1
        adapters, nets = list(pool.adapter_sizes.values()), list(pool.controlnet_sizes.values())
        self.adapter_bytes = round(plan.adapter_places * sum(adapters) / len(adapters))
        self.controlnet_bytes = round(plan.controlnet_places * sum(nets) / len(nets))

    @property
    def plain_request(self) -> ImageRequest:
        """The request whose solo time sets the load times."""
        return self._request

    @property
    def adapter_load_s(self) -> float:
        """Seconds that are added to a load of an adapter."""
        return round(self._plan.adapter_load_share * self._plain_s, 4)

    @property
    def controlnet_load_s(self) -> float:
        """Seconds that are added to a load of a ControlNet."""
        return round(self._plan.controlnet_load_share * self._plain_s, 4)

    def set(self, plain_s: float) -> None:
        """Make loads take their shares of ``plain_s``: of a running baseline at once, of lego from its next start."""
        self._plain_s = plain_s
        self._write_baseline_file()

    def baseline_file(self, replicas: int) -> Path:
        """Write the file that the baseline's replicas read, each of which keeps its part of the bytes."""
        self._replicas = replicas
        return self._write_baseline_file()

    def _write_baseline_file(self) -> Path:
        settings = {
            "adapters": str(self._pool.adapters.absolute()),
            "controlnets": str(self._pool.controlnets.absolute()),
            "adapter_bytes": self.adapter_bytes // self._replicas,
            "controlnet_bytes": self.controlnet_bytes // self._replicas,
            "adapter_load_s": self.adapter_load_s,
            "controlnet_load_s": self.controlnet_load_s,
        }
        # Replaced in one step: a replica may be reading.
        file = self._out / "baseline-addons.json"
        partial = file.with_suffix(".new")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        return partial.replace(file)

    def lego_environment(self) -> Mapping[str, str]:
        """Return the variables that slow down the loads of a server that starts now."""
        path = [str(SLOW_STORAGE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            "PYTHONPATH": os.pathsep.join(path),
            "LOADGEN_ADAPTER_LOAD_S": str(self.adapter_load_s),
            "LOADGEN_CONTROLNET_LOAD_S": str(self.controlnet_load_s),
        }

    def lego_config(self, config: Path, model: str) -> Path:
        """Derive the server's configuration with these adapters and ControlNets.

        The LoRA node, which reads from the storage, keeps most of the adapters; every backbone replica keeps some of
        them and its part of the ControlNets.
        """

        def change(settings: Settings) -> None:
            entry = settings["models"][model]
            backbones = int(entry.get("nodes", {}).get("backbone", {}).get("replicas", {}).get("max", 1))
            replica_bytes = int(REPLICA_CACHE_SHARE * self.adapter_bytes)
            entry["adapters"] = {
                **(entry.get("adapters") or {}),
                "roots": [str(self._pool.adapters.absolute())],
                "cache_bytes": self.adapter_bytes - backbones * replica_bytes,
                "replica_cache_bytes": replica_bytes,
                "early_start": False,
            }
            entry["controlnet_cache_bytes"] = self.controlnet_bytes // backbones
            entry["controlnets"] = {
                name: {"path": str((self._pool.controlnets / name).absolute()), "placement": "colocated"}
                for name in self._pool.controlnet_sizes
            }

        return derive_config(config, self._out, "addons", change)
