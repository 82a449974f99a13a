"""FLUX's ControlNets: their own forward pass over diffusers' FluxControlNetModel, in all its forms.

A ControlNet is the family's blocks over latents and an image.  InstantX's read the image's latents, union
ControlNets put a token that names the kind of image before the text, XLabs' read the pixels.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from lego_serve.core.addons import entry_param
from lego_serve.errors import RequestError
from lego_serve.models import model_files
from lego_serve.models.controlnet.common import (
    BASE_KEYS,
    LazyResiduals,
    check_fits,
    relative_cost,
    width_of,
)
from lego_serve.models.families.flux import (
    PATCH,
    double_of,
    modulations_of,
    pack_latents,
    run_double,
    run_single,
    single_of,
)
from lego_serve.models.ragged import layers
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlImage, ControlNetLane, ControlNetSpec
from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.layers import EmbeddingMlp, Linear, NumberEmbedding, Rotation
from lego_serve.models.ragged.packing import Packing, pack
from lego_serve.models.ragged.rotation import image_rotation, join_rotations, stack_rotations
from lego_serve.models.registry import ModelSpec

if TYPE_CHECKING:
    from diffusers import FluxControlNetModel

SIZES_KEPT = 64  # image sizes whose rotations are kept


def load_controlnet(spec: ModelSpec, folder: Path, base: ModelSpec, base_folder: Path) -> "FluxControlNet":
    """Load the ControlNet of a folder for a base model.  Raises CheckpointError."""
    from diffusers import FluxControlNetModel

    module = model_files.load_module(spec, folder, "", FluxControlNetModel)
    config = module.config
    base_config = model_files.read_json(base, base_folder / "transformer" / "config.json")
    check_fits(spec, folder, config, base, base_config, BASE_KEYS[:3])
    doubles, singles = int(config["num_layers"]), int(config["num_single_layers"])
    reads_pixels = config["conditioning_embedding_channels"] is not None
    net_spec = ControlNetSpec(
        name=spec.name,
        width=width_of(config),
        doubles=doubles,
        singles=singles,
        channels=3 if reads_pixels else int(config["in_channels"]) // PATCH**2,
        share=relative_cost(doubles + singles, base_config["num_layers"] + base_config["num_single_layers"]),
        modes=int(config["num_mode"] or 0),
        reads_pixels=reads_pixels,
        repeats=reads_pixels,
    )
    return FluxControlNet(module, net_spec, release=True)


class FluxControlNet:
    """A FLUX ControlNet over any lanes in one pass, and the source of its residuals in this process."""

    def __init__(self, module: "FluxControlNetModel", spec: ControlNetSpec, *, release: bool = False) -> None:
        module.eval().requires_grad_(False)
        self.spec = spec
        self._width, self._weight = spec.width, module.x_embedder.weight
        self._rotate = module.pos_embed
        embed = module.time_text_embed
        self._time = NumberEmbedding.of(embed.time_proj, embed.timestep_embedder)
        self._guidance = (
            NumberEmbedding.of(embed.time_proj, embed.guidance_embedder) if module.config.guidance_embeds else None
        )
        self._pooled_in = EmbeddingMlp.of(embed.text_embedder)
        self._hint = module.input_hint_block
        self._modes = module.controlnet_mode_embedder.weight if module.union else None
        self._patch_in, self._image_in = Linear.of(module.x_embedder), Linear.of(module.controlnet_x_embedder)
        self._text_in = Linear.of(module.context_embedder)
        doubles, singles = module.transformer_blocks, module.single_transformer_blocks
        self._modulation = Linear.of(*modulations_of(doubles, singles))
        self._doubles = layers.take_blocks(doubles, double_of, release=release)
        self._singles = layers.take_blocks(singles, single_of, release=release)
        self._outs = [Linear.of(out) for out in (*module.controlnet_blocks, *module.controlnet_single_blocks)]
        self.linear_ops = layers.share_ops(vars(self))
        self._image_rotation = lru_cache(maxsize=SIZES_KEPT)(self._rotation_of)

    @torch.inference_mode()
    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Project text tokens, put a union's mode before them, and project the pooled text.

        Raises RequestError for a union ControlNet without a mode it has, and for any other with a mode.
        """
        tokens = self._text_in(cond.tokens.to(self._weight))
        if self._modes is None:
            if mode is not None:
                raise RequestError(f"ControlNet {self.spec.name} has no modes.", param="controlnet")
        elif mode is None or not 0 <= mode < self.spec.modes:
            raise RequestError(
                f"ControlNet {self.spec.name} needs a mode from 0 to {self.spec.modes - 1}.",
                param=entry_param("controlnet", self.spec.name),
            )
        else:
            tokens = torch.cat([self._modes[mode][None], tokens])
        pooled = cond.pooled.to(self._weight)[None]
        return PreparedPrompt(tokens, self._pooled_in(pooled)[0])

    @torch.inference_mode()
    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Return control latents, on the model's device, where steps read them.

        Pixels (3, height, width) are mapped by the ControlNet's own layers.
        """
        here = uploaded(latents, self._weight.device)
        return ControlImage(here if self._hint is None else self._hint(here.to(self._weight.dtype)[None])[0], key)

    def start(self, lanes: Sequence[ControlNetLane]) -> LazyResiduals:
        """Begin a step whose residuals are computed on demand."""
        return LazyResiduals(self.residuals(lanes), self.spec, lanes)

    def rows(self, lane: ControlNetLane) -> int:
        """Return the image rows of a lane's branch."""
        h, w = _size(lane)
        return h * w

    @torch.inference_mode()
    def residuals(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        """Yield the residuals (rows, width), those of double blocks first, each computed on demand."""
        packing = pack(lanes, [self.rows(lane) for lane in lanes], self._weight.device)
        image = self._patch_in(self._rows([lanes[b.lane].latents for b in packing.branches], packing))
        image = image + self._image_in(self._rows([lanes[b.lane].image.latents for b in packing.branches], packing))
        text = packing.rows_of([b.text for b in packing.branches], packing.text_branch)
        rotations = stack_rotations([self._image_rotation(_size(lanes[b.lane])) for b in packing.branches], packing)
        tables = self._tables(lanes, packing)
        outs = iter(self._outs)
        for double in self._doubles:
            image_table, text_table = layers.take_tables(tables, 6), layers.take_tables(tables, 6)
            image, text = run_double(double, image, text, image_table, text_table, packing, rotations)
            yield next(outs)(image)
        joint, rotation = packing.join(image, text), join_rotations(*rotations, packing)
        for single in self._singles:
            joint = run_single(single, joint, layers.take_tables(tables, 3), packing, rotation)
            yield next(outs)(packing.image_part(joint))

    def _rows(self, latents: Sequence[torch.Tensor], packing: Packing) -> torch.Tensor:
        here = [uploaded(x, self._weight.device).contiguous() for x in latents]
        rows = [pack_latents(x, (x.shape[-2] // PATCH, x.shape[-1] // PATCH)) for x in here]
        return packing.rows_of([part.to(self._weight.dtype) for part in rows], packing.image_branch)

    def _tables(self, lanes: Sequence[ControlNetLane], packing: Packing) -> Iterator[torch.Tensor]:
        """Yield the modulation tables (branches, width) in the order blocks use them."""
        embedded = self._time([lanes[branch.lane].time for branch in packing.branches])
        if self._guidance is not None:
            embedded = embedded + self._guidance([lanes[branch.lane].guidance for branch in packing.branches])
        pooled = torch.stack([branch.prompt.pooled for branch in packing.branches])
        return iter(self._modulation(F.silu(embedded + pooled)).split(self._width, dim=1))

    def _rotation_of(self, size: tuple[int, int]) -> Rotation:
        return image_rotation(self._rotate, size, self._weight.device)


def _size(lane: ControlNetLane) -> tuple[int, int]:
    return lane.latents.shape[-2] // PATCH, lane.latents.shape[-1] // PATCH
