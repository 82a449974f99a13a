"""Adapters and ControlNets of a diffusers pipeline, kept resident as its users do today.

Adapters: `load_lora_weights` under a name each, `set_adapters` for a request, `delete_adapters` for those that must go.
ControlNets: models of their own, put into a `StableDiffusion3ControlNetPipeline` that shares the other's components.
A load reads the file and sleeps for the storage's simulated seconds; the pipeline waits meanwhile, for a load changes
its modules.  Images for ControlNets are encoded to their mean (`encode_to_means`).
"""

import base64
import io
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import SD3ControlNetModel, SD3MultiControlNetModel, StableDiffusion3ControlNetPipeline
from PIL import Image
from safetensors.torch import load_file

from loadgen.baselines.lru_ledger import LruLedger
from loadgen.baselines.sd3_loading import encode_to_means

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter of a request."""

    name: str
    scale: float


@dataclass(frozen=True, slots=True)
class Control:
    """A ControlNet of a request, its image as base64 of a file."""

    name: str
    image: str
    weight: float


class Addons:
    """A pipeline's adapters and ControlNets; ``settings`` is a JSON file whose load times are read at each load."""

    def __init__(self, pipeline: Any, settings: Path) -> None:
        values = json.loads(settings.read_text())
        self._pipeline, self._settings = pipeline, settings
        self._adapters, self._controlnets = Path(values["adapters"]), Path(values["controlnets"])
        self._adapter_ledger = LruLedger(int(values["adapter_bytes"]))
        self._net_ledger = LruLedger(int(values["controlnet_bytes"]))
        self._nets: dict[str, Any] = {}
        self._controlnet_pipeline: Any = None
        encode_to_means(pipeline.vae)

    def prepare(self, loras: Sequence[Lora], controls: Sequence[Control]) -> tuple[Any, dict[str, Any]]:
        """Apply these add-ons and return the pipeline to call, with its further arguments."""
        self._apply_adapters([lora for lora in loras if lora.scale != 0])
        if not controls:
            return self._pipeline, {}
        nets = self._load_nets([control.name for control in controls])
        net = nets[0] if len(nets) == 1 else SD3MultiControlNetModel(nets)
        if self._controlnet_pipeline is None:
            self._controlnet_pipeline = StableDiffusion3ControlNetPipeline(**self._pipeline.components, controlnet=net)
            self._controlnet_pipeline.set_progress_bar_config(disable=True)
        self._controlnet_pipeline.controlnet = net
        images = [Image.open(io.BytesIO(base64.b64decode(control.image))).convert("RGB") for control in controls]
        weights = [control.weight for control in controls]
        is_single = len(controls) == 1
        return self._controlnet_pipeline, {
            "control_image": images[0] if is_single else images,
            "controlnet_conditioning_scale": weights[0] if is_single else weights,
        }

    def _apply_adapters(self, loras: Sequence[Lora]) -> None:
        if not loras:
            if self._adapter_ledger.used_bytes:
                self._pipeline.disable_lora()
            return
        names = [lora.name for lora in loras]
        for name in names:
            if not self._adapter_ledger.use(name):
                self._load_adapter(name, names)
        self._pipeline.enable_lora()
        self._pipeline.set_adapters(names, [lora.scale for lora in loras])

    def _load_adapter(self, name: str, needed: Sequence[str]) -> None:
        file = self._adapters / f"{name}.safetensors"
        if displaced := self._adapter_ledger.admit(name, file.stat().st_size, needed):
            self._pipeline.delete_adapters(displaced)
        time.sleep(self._load_s("adapter_load_s"))
        state = load_file(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are intended
            self._pipeline.load_lora_weights(state, adapter_name=name)

    def _load_nets(self, names: Sequence[str]) -> list[Any]:
        for name in names:
            if not self._net_ledger.use(name):
                file = self._controlnets / name / WEIGHTS
                for displaced in self._net_ledger.admit(name, file.stat().st_size, names):
                    del self._nets[displaced]
                self._nets[name] = self._load_net(file)
        return [self._nets[name] for name in names]

    def _load_net(self, file: Path) -> Any:
        net_class: Any = SD3ControlNetModel
        time.sleep(self._load_s("controlnet_load_s"))
        return net_class.from_pretrained(
            file.parent, torch_dtype=self._pipeline.dtype, use_safetensors=True, local_files_only=True
        )

    def _load_s(self, key: str) -> float:
        return float(json.loads(self._settings.read_text())[key])
