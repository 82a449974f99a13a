"""What both sides load adapters and ControlNets from: the same files, the same seconds a load, the same bytes kept."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from loadgen.addons.plan import AddonsPlan
from loadgen.traffic import ImageRequest

SHELF_SHARE = 1 / 8  # of all adapters' bytes, kept ready by each backbone replica; the LoRA node has the rest
NET_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True)
class Pool:
    """Folders of derived adapters (files) and ControlNets (folders)."""

    adapters: Path
    controlnets: Path

    @property
    def adapter_sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {file.stem: file.stat().st_size for file in sorted(self.adapters.glob("*.safetensors"))}

    @property
    def controlnet_sizes(self) -> dict[str, int]:
        """Bytes of the weights by name."""
        return {file.parent.name: file.stat().st_size for file in sorted(self.controlnets.glob(f"*/{NET_WEIGHTS}"))}


class SimulatedStorage:
    """The storage as slow as it is set; ``out`` takes the files the sides are told of it by."""

    def __init__(self, plan: AddonsPlan, pool: Pool, plain_request: ImageRequest, out: Path) -> None:
        self._plan, self._pool, self._out = plan, pool, out
        self._request = plain_request
        self._plain_s = 0.0
        self._replicas = 1
        adapters, nets = list(pool.adapter_sizes.values()), list(pool.controlnet_sizes.values())
        self.adapter_bytes = round(plan.adapter_places * sum(adapters) / len(adapters))
        self.controlnet_bytes = round(plan.controlnet_places * sum(nets) / len(nets))

    @property
    def plain_request(self) -> ImageRequest:
        """The request by whose solo time the storage's is set."""
        return self._request

    @property
    def adapter_load_s(self) -> float:
        """Seconds a load of an adapter takes longer."""
        return round(self._plan.adapter_load_share * self._plain_s, 4)

    @property
    def controlnet_load_s(self) -> float:
        """Seconds a load of a ControlNet takes longer."""
        return round(self._plan.controlnet_load_share * self._plain_s, 4)

    def set(self, plain_s: float) -> None:
        """Make loads take their shares of these seconds: of a running baseline at once, of lego from its next start."""
        self._plain_s = plain_s
        self._write()

    def baseline_file(self, replicas: int) -> Path:
        """What the baseline's replicas read, each of which keeps its part of the bytes."""
        self._replicas = replicas
        return self._write()

    def _write(self) -> Path:
        file = self._out / "baseline-addons.json"
        said = {
            "adapters": str(self._pool.adapters.absolute()),
            "controlnets": str(self._pool.controlnets.absolute()),
            "adapter_bytes": self.adapter_bytes // self._replicas,
            "controlnet_bytes": self.controlnet_bytes // self._replicas,
            "adapter_load_s": self.adapter_load_s,
            "controlnet_load_s": self.controlnet_load_s,
        }
        # Replaced at once: a replica may be reading.
        written = file.with_suffix(".new")
        written.write_text(json.dumps(said, indent=2) + "\n")
        return written.replace(file)

    def lego_config(self, config: Path, model: str) -> Path:
        """The server's configuration with these adapters and ControlNets, written beside the results.

        The LoRA node, which storage is behind, keeps most of the adapters, every backbone replica some of them and its
        part of the ControlNets.
        """
        settings = yaml.safe_load(config.read_text())
        said = settings["models"][model]
        backbones = int(said.get("nodes", {}).get("backbone", {}).get("replicas", {}).get("max", 1))
        cache_bytes = int(SHELF_SHARE * self.adapter_bytes)
        said["adapters"] = {
            **(said.get("adapters") or {}),
            "roots": [str(self._pool.adapters.absolute())],
            "cache_bytes": self.adapter_bytes - backbones * cache_bytes,
            "replica_cache_bytes": cache_bytes,
            "storage_s": self.adapter_load_s,
            "early_start": False,
        }
        said["controlnet_cache_bytes"] = self.controlnet_bytes // backbones
        said["controlnets"] = {
            name: {
                "path": str((self._pool.controlnets / name).absolute()),
                "placement": "colocated",
                "storage_s": self.controlnet_load_s,
            }
            for name in self._pool.controlnet_sizes
        }
        derived = self._out / f"{config.stem}-addons.yaml"
        derived.write_text(yaml.safe_dump(settings, sort_keys=False))
        return derived
