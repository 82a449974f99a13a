"""Encodes 8-bit images to latents and decodes them, one at a time unless a larger batch is measured to be faster."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from lego_serve.models.ragged.conditioning import ImageLatents
from lego_serve.models.vae_crops import Box, CropDecoder, pays

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class KlVae:
    """diffusers' AutoencoderKL, channels last, with the model's shift and scale applied to latents."""

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
        """Encode images (n, height, width, 3) of 8 bits to scaled latents, as distributions."""
        encoded = []
        for image in pixels:
            x = (image.permute(2, 0, 1)[None].float() / 255) * 2 - 1
            posterior = self._vae.encode(self._to_device(x)).latent_dist
            mean = (posterior.mean[0].float() - self._shift) * self._scale
            encoded.append(ImageLatents(mean.cpu(), (posterior.std[0].float() * self._scale).cpu()))
        return encoded

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents (n, channels, height, width) to images (n, height, width, 3) of 8 bits.

        ``max_batch`` at a time: on a CPU batching decodes is slower, so calibration leaves it at 1.
        """
        return torch.cat([_images(self.decode_batch(part)) for part in latents.split(self.max_batch)])

    @torch.inference_mode()
    def decode_batch(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents in one pass, without rounding: (n, 3, height, width) in -1 to 1."""
        decoded: torch.Tensor = self._vae.decode(self._unscaled(latents)).sample
        return decoded

    @torch.inference_mode()
    def statistics(self, latents: torch.Tensor) -> torch.Tensor:
        """Compute the sums that the decoder's norms see in a template (channels, height, width), for ``decode_box``."""
        return self._crops.statistics(self._decodable(latents[None])).cpu()

    @torch.inference_mode()
    def decode_box(self, latents: torch.Tensor, box: Box, statistics: torch.Tensor) -> torch.Tensor | None:
        """Decode a box of latents (channels, height, width): (height, width, 3) of 8 bits.

        Returns None where the whole image has to be decoded.
        """
        decoded = self._crops.decode(self._decodable(latents[None]), box, statistics.to(self._vae.device))
        return None if decoded is None else _images(decoded)[0]

    def decode_within(
        self, latents: torch.Tensor, mask: torch.Tensor, statistics: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Decode latents (n, channels, height, width) to images that are right where a mask (height, width) is true.

        ``statistics`` gives those of the template; it is called only where less than the whole is decoded.
        """
        height, width = latents.shape[-2:]
        box = Box.around(mask)
        if not pays(box, height, width):
            return self.decode(latents)
        scale, template_sums = self.pixels_per_latent, statistics()
        images = torch.zeros(len(latents), scale * height, scale * width, 3, dtype=torch.uint8)
        for image, image_latents in zip(images, latents, strict=True):
            crop = self.decode_box(image_latents, box, template_sums)
            if crop is None:
                image.copy_(self.decode(image_latents[None])[0])
            else:
                image[scale * box.top : scale * box.bottom, scale * box.left : scale * box.right] = crop
        return images

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return self._to_device(latents / self._scale + self._shift)

    def _decodable(self, latents: torch.Tensor) -> torch.Tensor:
        """Map scaled latents to the decoder's own input."""
        x = self._unscaled(latents)
        if self._vae.post_quant_conv is None:
            return x
        decodable: torch.Tensor = self._vae.post_quant_conv(x)
        return decodable

    def _to_device(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._vae.device, self._vae.dtype, memory_format=torch.channels_last)


def _images(decoded: torch.Tensor) -> torch.Tensor:
    """Map a decoder's output (n, 3, height, width) in -1 to 1 to images (n, height, width, 3) of 8 bits."""
    images = (decoded.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (images * 255).round().to(torch.uint8).cpu()
