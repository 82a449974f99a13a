"""Models to measure: lego-tiny as it ships, all others at their real sizes with random weights.

Speed does not depend on the values of weights, so nothing is downloaded: a transformer is built on the meta device
and then allocated and filled on its own.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.model_files import load_module, model_folder, pixels_per_latent
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.registry import ModelSpec

PIXELS_PER_LATENT = 8
BUILT_IN = "lego-tiny"
GUIDANCE = 4.0
# A thousand times each is exact in bf16 too: diffusers' FLUX rounds times before it embeds them, we do not.
TIMES = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A transformer's configuration (None: the weights that ship), the text rows it is served with, and what to run.

    ``sides``: token rows and columns of the square images measured.  ``scale``: how many times as wide and high as
    lego-tiny's the images of ragged mixes are.
    """

    family: str
    text_rows: int
    sides: tuple[int, ...]
    config: dict[str, Any] | None = field(default=None, hash=False)
    scale: int = 1


_SD3: dict[str, Any] = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
_SD35: dict[str, Any] = {"pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))}
_SMALL_FLUX: dict[str, Any] = {
    "in_channels": 32,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 192,
    "pooled_projection_dim": 192,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
LARGE_SIDES = (16, 32, 64)  # 256, 512 and 1024 pixels

ARCHITECTURES = {
    "tiny": Architecture("sd3", 32, (4, 8, 12, 16)),
    "tiny-flux": Architecture("flux", 32, (4, 8, 12, 16), _SMALL_FLUX),
    "wide": Architecture("sd3", 77, (8, 16, 32), _SD3 | {"pos_embed_max_size": 192, "num_layers": 2}),
    "sd3-medium": Architecture("sd3", 333, LARGE_SIDES, _SD3 | {"pos_embed_max_size": 192}, scale=4),
    "sd35-medium": Architecture("sd3", 333, LARGE_SIDES, _SD3 | _SD35, scale=4),
    "flux-dev": Architecture("flux", 512, LARGE_SIDES, {"guidance_embeds": True}, scale=4),
    "flux-schnell": Architecture("flux", 256, LARGE_SIDES, {"guidance_embeds": False}, scale=4),
}
DEFAULTS = {"cpu": ("tiny", "tiny-flux"), "cuda": ("sd35-medium", "flux-dev")}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is measured: diffusers' transformer and our backbone over the same weights."""

    name: str
    architecture: Architecture
    transformer: Any
    backbone: Backbone
    device: torch.device
    dtype: torch.dtype

    def conditioning(self, seed: int) -> Conditioning:
        """Return made-up text of the length the model is served with."""
        draw = torch.Generator().manual_seed(seed)
        tokens = torch.randn(self.architecture.text_rows, self.backbone.text_width, generator=draw)
        pooled = torch.randn(self.backbone.pooled_width, generator=draw)
        return Conditioning(tokens.to(self.device), pooled.to(self.device))

    def latents(self, seed: int, rows: int, columns: int) -> torch.Tensor:
        """Return noise for an image of so many token rows and columns, on the device."""
        pixels = self.backbone.shape.pixels_per_token
        shape = self.backbone.shape.of(columns * pixels, rows * pixels)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def lane(self, seed: int, rows: int, columns: int) -> LaneInput:
        """Return a lane, guided as its family is; lanes of neighbouring seeds stand at different times."""
        cond = self.backbone.prepare(self.conditioning(2 * seed))
        negative = self.backbone.prepare(self.conditioning(2 * seed + 1)) if self.backbone.uses_cfg else None
        return LaneInput(self.latents(seed, rows, columns), time_of(seed), GUIDANCE, cond, negative)


def time_of(seed: int) -> float:
    """Return the time, in 0..1, at which a lane of this seed stands."""
    return TIMES[seed % len(TIMES)]


def build(name: str, device: torch.device, dtype_name: str = "auto") -> Subject:
    """Build a model of ARCHITECTURES on a device, in the dtype it is served in or another.

    Raises KeyError for any other name.
    """
    architecture = ARCHITECTURES[name]
    dtype = resolve_dtype(ModelSpec(name, "", dtype=dtype_name, device=device.type))
    if architecture.config is None:
        transformer, pixels = _shipped(device, dtype_name)
    else:
        transformer = random_module(_transformer_class(architecture.family), architecture.config, device, dtype)
        pixels = PIXELS_PER_LATENT
    backbone = _backbone_class(architecture.family)(transformer, pixels)
    return Subject(name, architecture, transformer, backbone, device, dtype)


def _backbone_class(family: str) -> Any:
    from lego_serve.models.families.flux import FluxBackbone
    from lego_serve.models.families.sd3 import Sd3Backbone

    return {"sd3": Sd3Backbone, "flux": FluxBackbone}[family]


def _transformer_class(family: str) -> Any:
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    return {"sd3": SD3Transformer2DModel, "flux": FluxTransformer2DModel}[family]


def _shipped(device: torch.device, dtype_name: str) -> tuple[Any, int]:
    spec = ModelSpec(BUILT_IN, f"builtin:{BUILT_IN}", max_sequence_length=0, dtype=dtype_name, device=device.type)
    folder = model_folder(spec)
    return load_module(spec, folder, "transformer", _transformer_class("sd3")), pixels_per_latent(spec, folder)


def random_module(cls: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Build a module of diffusers with random weights on the device where it runs."""
    with torch.device("meta"):
        module = cls(**config)
    module = module.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)  # keeps activations of order one through all layers
        else:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module
