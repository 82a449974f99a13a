"""Latents to 8-bit images and back, one image at a time unless a larger batch is measured to pay."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from lego_serve.models.ragged.conditioning import ImageLatents
from lego_serve.models.vae_crops import Box, CropDecoder, pays

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class KlVae:
    """diffusers' AutoencoderKL, channels last, with the model's own shift and scale applied."""

    def __init__(self, vae: "AutoencoderKL") -> None:
        self._vae = vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shift = float(vae.config.shift_factor or 0.0)
        self._scale = float(vae.config.scaling_factor)
        self.max_batch = 1
        self.latent_channels = int(vae.config.latent_channels)
        self.pixels_per_latent = int(2 ** (len(vae.config.block_out_channels) - 1))
        self._crops = CropDecoder(vae.decoder)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> list[ImageLatents]:
        """Images (n, height, width, 3) of 8 bits to scaled latents, as distributions."""
        encoded = []
        for image in pixels:
            x = (image.permute(2, 0, 1)[None].float() / 255) * 2 - 1
            posterior = self._vae.encode(self._placed(x)).latent_dist
            mean = (posterior.mean[0].float() - self._shift) * self._scale
            encoded.append(ImageLatents(mean.cpu(), (posterior.std[0].float() * self._scale).cpu()))
        return encoded

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (n, channels, height, width) to images (n, height, width, 3) of 8 bits.

        ``max_batch`` at a time: on a CPU batching decodes is slower, so calibration leaves it at 1.
        """
        return torch.cat([self.decode_batch(part) for part in latents.split(self.max_batch)])

    @torch.inference_mode()
    def decode_batch(self, latents: torch.Tensor) -> torch.Tensor:
        """The same in one pass."""
        return _images(self._vae.decode(self._unscaled(latents)).sample)

    @torch.inference_mode()
    def statistics(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder's norms find in a template (channels, height, width), for ``decode_box``."""
        return self._crops.statistics(self._decodable(latents[None])).cpu()

    @torch.inference_mode()
    def decode_box(self, latents: torch.Tensor, box: Box, statistics: torch.Tensor) -> torch.Tensor | None:
        """The part of an image that is a box of latents (channels, height, width): (height, width, 3) of 8 bits.

        None where it takes a decoding of all of it.
        """
        decoded = self._crops.decode(self._decodable(latents[None]), box, statistics.to(self._vae.device))
        return None if decoded is None else _images(decoded)[0]

    def decode_within(
        self, latents: torch.Tensor, mask: torch.Tensor, statistics: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Images of latents (n, channels, height, width), right where a mask (height, width) of them is true.

        ``statistics`` of the template are asked for where less than all is decoded.
        """
        height, width = latents.shape[-2:]
        box = Box.around(mask)
        if not pays(box, height, width):
            return self.decode(latents)
        scale, known = self.pixels_per_latent, statistics()
        made = torch.zeros(len(latents), scale * height, scale * width, 3, dtype=torch.uint8)
        for image, own in zip(made, latents, strict=True):
            part = self.decode_box(own, box, known)
            if part is None:
                image.copy_(self.decode(own[None])[0])
            else:
                image[scale * box.top : scale * box.bottom, scale * box.left : scale * box.right] = part
        return made

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return self._placed(latents / self._scale + self._shift)

    def _decodable(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder itself is given."""
        x = self._unscaled(latents)
        if self._vae.post_quant_conv is None:
            return x
        decodable: torch.Tensor = self._vae.post_quant_conv(x)
        return decodable

    def _placed(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._vae.device, self._vae.dtype, memory_format=torch.channels_last)


def _images(decoded: torch.Tensor) -> torch.Tensor:
    """Images (n, height, width, 3) of 8 bits, of a decoder's -1 to 1."""
    images = (decoded.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (images * 255).round().to(torch.uint8).cpu()
