"""FLUX's ControlNets: their own forward pass over diffusers' FluxControlNetModel, in all its forms.

It is the family's blocks over latents and an image.  InstantX's read the image's latents, union
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
    embedded_guidance,
    embedded_time,
    share_of,
    width_of,
)
from lego_serve.models.families.flux import PATCH, _double, _packed, _run_double, _run_single, _single, _stacked
from lego_serve.models.ragged import layers
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlImage, ControlNetLane, ControlNetSpec
from lego_serve.models.ragged.layers import Linear, Rotation
from lego_serve.models.ragged.packing import Packing, pack
from lego_serve.models.registry import ModelSpec

if TYPE_CHECKING:
    from diffusers import FluxControlNetModel

SIZES_KEPT = 64


def load_controlnet(spec: ModelSpec, folder: Path, base: ModelSpec, base_folder: Path) -> "FluxControlNet":
    """The ControlNet of a folder for a base model.  Raises CheckpointError."""
    from diffusers import FluxControlNetModel

    module = model_files.load_module(spec, folder, "", FluxControlNetModel)
    config = module.config
    ours = model_files.read_json(base, base_folder / "transformer" / "config.json")
    check_fits(spec, folder, config, base, ours, BASE_KEYS[:3])
    doubles, singles = int(config["num_layers"]), int(config["num_single_layers"])
    reads_pixels = config["conditioning_embedding_channels"] is not None
    own = ControlNetSpec(
        spec.name, width_of(config), doubles, singles,
        3 if reads_pixels else int(config["in_channels"]) // PATCH**2,
        share_of(doubles + singles, ours["num_layers"] + ours["num_single_layers"]),
        modes=int(config["num_mode"] or 0), reads_pixels=reads_pixels, repeats=reads_pixels,
    )  # fmt: skip
    return FluxControlNet(module, own, release=True)


class FluxControlNet:
    """A FLUX ControlNet over any lanes in one pass; itself the source of its residuals in this process."""

    def __init__(self, module: "FluxControlNetModel", spec: ControlNetSpec, *, release: bool = False) -> None:
        module.eval().requires_grad_(False)
        self.spec = spec
        self._width, self._weight = spec.width, module.x_embedder.weight
        self._embed, self._rotate = module.time_text_embed, module.pos_embed
        self._is_told_guidance = bool(module.config.guidance_embeds)
        self._hint = module.input_hint_block
        self._modes = module.controlnet_mode_embedder.weight if module.union else None
        self._patch_in, self._image_in = Linear.of(module.x_embedder), Linear.of(module.controlnet_x_embedder)
        self._text_in = Linear.of(module.context_embedder)
        doubles, singles = module.transformer_blocks, module.single_transformer_blocks
        modulations = [m for b in doubles for m in (b.norm1.linear, b.norm1_context.linear)]
        self._modulation = Linear.of(*modulations, *(b.norm.linear for b in singles))
        self._doubles = layers.take_blocks(doubles, _double, release=release)
        self._singles = layers.take_blocks(singles, lambda block: _single(block, self._width), release=release)
        self._outs = [Linear.of(out) for out in (*module.controlnet_blocks, *module.controlnet_single_blocks)]
        self._image_rotation = lru_cache(maxsize=SIZES_KEPT)(self._rotation_of)

    @torch.inference_mode()
    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Text tokens projected, a union's mode before them, and the pooled text's share of the modulation.

        Raises RequestError when a union ControlNet is given no mode it has, or another is given one.
        """
        embed = self._embed.text_embedder
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
        return PreparedPrompt(tokens, layers.embed_mlp(pooled, embed.linear_1, embed.linear_2)[0])

    @torch.inference_mode()
    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Control latents as they are, or what the ControlNet's own layers make of pixels (3, height, width)."""
        if self._hint is None:
            return ControlImage(latents, key)
        return ControlImage(self._hint(latents.to(self._weight)[None])[0], key)

    def start(self, lanes: Sequence[ControlNetLane]) -> LazyResiduals:
        """A step whose residuals are computed as the backbone asks for them."""
        return LazyResiduals(self.residuals(lanes), self.spec, lanes)

    def rows(self, lane: ControlNetLane) -> int:
        """Image rows of a lane's branch."""
        h, w = _size(lane)
        return h * w

    @torch.inference_mode()
    def residuals(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        """The residuals (rows, width), those of double blocks first, each computed when it is asked for."""
        packing = pack(lanes, [self.rows(lane) for lane in lanes], self._weight.device)
        image = self._patch_in(self._rows([lanes[b.lane].latents for b in packing.branches], packing))
        image = image + self._image_in(self._rows([lanes[b.lane].image.latents for b in packing.branches], packing))
        text = packing.rows_of([b.text for b in packing.branches], packing.text_branch)
        of_image, of_text = self._rotations(lanes, packing)
        tables = self._tables(lanes, packing)
        outs = iter(self._outs)
        for double in self._doubles:
            image_table, text_table = ([next(tables) for _ in range(6)] for _ in "it")
            image, text = _run_double(double, image, text, image_table, text_table, packing, (of_image, of_text))
            yield next(outs)(image)
        of_joint = packing.join(of_image[0], of_text[0]), packing.join(of_image[1], of_text[1])
        joint = packing.join(image, text)
        for single in self._singles:
            joint = _run_single(single, joint, [next(tables) for _ in range(3)], packing, of_joint)
            yield next(outs)(packing.image_part(joint))

    def _rows(self, latents: Sequence[torch.Tensor], packing: Packing) -> torch.Tensor:
        rows = [_packed(x.contiguous(), (x.shape[-2] // PATCH, x.shape[-1] // PATCH)).to(self._weight) for x in latents]
        return packing.rows_of(rows, packing.image_branch)

    def _tables(self, lanes: Sequence[ControlNetLane], packing: Packing) -> Iterator[torch.Tensor]:
        said = embedded_time(self._embed, lanes, packing, self._weight)
        if self._is_told_guidance:
            said = said + embedded_guidance(self._embed, lanes, packing, self._weight)
        pooled = torch.stack([b.cond.pooled for b in packing.branches])
        return iter(self._modulation(F.silu(said + pooled)).split(self._width, dim=1))

    def _rotations(self, lanes: Sequence[ControlNetLane], packing: Packing) -> tuple[Rotation, Rotation]:
        """Cosines and sines of image rows and of text rows, which stand at the origin."""
        image, text = [], []
        for branch in packing.branches:
            image.append(self._image_rotation(_size(lanes[branch.lane])))
            ones = image[-1][0].new_ones(branch.text_rows, image[-1][0].shape[1])
            text.append((ones, torch.zeros_like(ones)))
        return _stacked(image, packing, packing.image_branch), _stacked(text, packing, packing.text_branch)

    def _rotation_of(self, size: tuple[int, int]) -> Rotation:
        rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        rotation: Rotation = self._rotate(places.to(self._weight.device))
        return rotation


def _size(lane: ControlNetLane) -> tuple[int, int]:
    return lane.latents.shape[-2] // PATCH, lane.latents.shape[-1] // PATCH
