"""A trained family in fp32 with frozen weights, which add-ons are trained and judged with."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from lego_serve.zoo.architecture import PROMPT_TOKENS
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.progress import pick_device
from lego_serve.zoo.world.scenes import to_bytes

STEPS = 20  # of an image that is judged


@dataclass(frozen=True, slots=True)
class FrozenFamily:
    """The components of a family, none of which is trained."""

    transformer: SD3Transformer2DModel
    vae: AutoencoderKL
    encoders: tuple[CLIPTextModelWithProjection, ...]
    tokenizer: CLIPTokenizer
    scheduler: FlowMatchEulerDiscreteScheduler

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> "FrozenFamily":
        """Load a model folder, by default the shipped one."""
        return cls.of(
            StableDiffusion3Pipeline.from_pretrained(
                folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
            )
        )

    @classmethod
    def of(cls, family: StableDiffusion3Pipeline) -> "FrozenFamily":
        """Freeze a pipeline's components."""
        device = pick_device()
        parts = [family.transformer, family.vae, family.text_encoder, family.text_encoder_2]
        for part in parts:
            part.to(device, torch.float32).requires_grad_(False).eval()
        return cls(parts[0], parts[1], (parts[2], parts[3]), family.tokenizer, family.scheduler)

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text tokens (texts, 32, 192) and pooled vectors (texts, 192), as SD3's pipeline joins them."""
        options = {"padding": "max_length", "max_length": PROMPT_TOKENS, "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(list(texts), **options).input_ids.to(self.transformer.device)
        outs = [encoder(ids, output_hidden_states=True) for encoder in self.encoders]
        return torch.cat([o.hidden_states[-2] for o in outs], -1), torch.cat([o.text_embeds for o in outs], -1)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return scaled latents of images in -1..1."""
        return (self._means(images) - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    @torch.no_grad()
    def encode_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """Return latents of control images as StableDiffusion3ControlNetPipeline makes them: scaled, not shifted."""
        return self._means(maps) * self.vae.config.scaling_factor

    def _means(self, images: torch.Tensor) -> torch.Tensor:
        parts = images.to(self.vae.device).split(8)
        return torch.cat([self.vae.encode(part).latent_dist.mode() for part in parts])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images (images, height, width, 3) of 8 bits from scaled latents."""
        plain = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        drawn = torch.cat([self.vae.decode(part).sample for part in plain.split(8)])
        return to_bytes(drawn.clamp(-1, 1)).cpu()

    @torch.no_grad()
    def generate(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        side: int,
        *,
        controlnet: SD3ControlNetModel | None = None,
        maps: torch.Tensor | None = None,
        weight: float = 1.0,
        steps: int = STEPS,
        guidance: float = 4.0,
    ) -> torch.Tensor:
        """Draw prompts in one batch, with classifier-free guidance and, if given, control maps in -1..1.

        The steps are those of StableDiffusion3Pipeline and its ControlNet sibling, at the sigmas of the family's
        scheduler.
        """
        device = self.transformer.device
        text, pooled = self.condition([""] * len(texts) + list(texts))
        shape = (self.transformer.config.in_channels, side // 8, side // 8)
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(device)
        self.scheduler.set_timesteps(steps)
        sigmas = self.scheduler.sigmas.tolist()
        control = None if maps is None else self.encode_maps(maps).repeat(2, 1, 1, 1)
        for now, after in itertools.pairwise(sigmas):
            velocity = self.velocity(x.repeat(2, 1, 1, 1), now, text, pooled, controlnet, control, weight)
            unconditional, conditional = velocity.chunk(2)
            x = x + (after - now) * (unconditional + guidance * (conditional - unconditional))
        return self.decode(x)

    def velocity(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor | float,
        text: torch.Tensor,
        pooled: torch.Tensor,
        controlnet: SD3ControlNetModel | None = None,
        control: torch.Tensor | None = None,
        weight: float = 1.0,
    ) -> torch.Tensor:
        """Return the velocity that the transformer predicts, with the ControlNet's residuals if there is one."""
        times = torch.as_tensor(sigma, device=x.device).expand(len(x)) * 1000
        residuals = None
        if controlnet is not None:
            residuals = controlnet(
                hidden_states=x,
                controlnet_cond=control,
                conditioning_scale=weight,
                encoder_hidden_states=text,
                pooled_projections=torch.zeros_like(pooled),
                timestep=times,
                return_dict=False,
            )[0]
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times,
            block_controlnet_hidden_states=residuals,
            return_dict=False,
        )[0]
