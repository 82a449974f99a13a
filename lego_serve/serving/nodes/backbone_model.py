"""What a backbone's node computes with, which outlasts the node where its weights are kept in host memory."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode, allowed_mode
from lego_serve.core.scheduling.ordering import LANE_POLICIES
from lego_serve.engine.batch_invariance import ensure_batch_invariance
from lego_serve.engine.calibration import calibrate, calibrate_adapters
from lego_serve.engine.sharing.measurements import Measurements
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.serving.nodes.host_weights import device_bytes
from lego_serve.serving.nodes.options import BackboneOptions

log = logging.getLogger("lego_serve.nodes")


@dataclass(frozen=True, slots=True)
class BackboneModel:
    """A backbone, its sigma tables, and the ControlNets by name that stay beside it."""

    backbone: Backbone
    tables: FlowMatchTables
    controlnets: Mapping[str, ControlNetSource] = field(default_factory=dict)

    @classmethod
    def load(cls, spec: ModelSpec) -> "BackboneModel":
        """Load a backbone from its files; its node loads the ControlNets, once it knows which stay.

        Raises CheckpointError.
        """
        return cls(*load_backbone(spec))

    def batcher(
        self, spec: ModelSpec, options: BackboneOptions, measurements: Measurements, *, takes_adapters: bool
    ) -> StepBatcher:
        """Return what chooses the lanes of each step, by what steps were measured to take.

        Raises ConfigError where batch invariance is required and not possible.
        """
        backbone, once = self.backbone, measurements.once
        backbone.bucket_rows = options.bucket_rows
        invariance = ensure_batch_invariance(backbone, required=options.batch_invariant)
        log.info("batch invariance of %s: %s", spec.name, invariance)
        keeps_weights = options.batch_invariant or spec.linear != "dense"
        measured = f"{spec.name} {spec.path}"  # a tier may have weights of its own
        rates = once(f"{measured} rates", lambda: calibrate(backbone))
        return StepBatcher(
            LANE_POLICIES[options.lane_policy],
            StepLimits(options.max_step_s, options.max_rows),
            rates,
            allowed_mode(LoraMode(options.adapter_mode), batch_invariant=keeps_weights),
            once(f"{measured} adapter rates", lambda: calibrate_adapters(backbone)) if takes_adapters else None,
        )

    def forget_adapters(self) -> int:
        """Have the weights be those of the files; return the bytes of them on another device than the CPU."""
        self.backbone.adapters.forget()
        return device_bytes(self)
