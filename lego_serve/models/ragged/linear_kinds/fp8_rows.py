"""Linear layers of products of 8-bit floats (e4m3): weights with a scale for each output, rows with one for each row.

A row is divided by 1/448 of its own largest number, so that it fills the numbers that e4m3 has, and a row's result
depends on it alone.  On a GPU the product is torch's row-wise scaled one (``torch._scaled_mm``), which needs compute
capability 8.9 and sides in 16s, and rounds to bf16.  On a CPU, which has no such product, the rounded numbers are
multiplied in fp32: it shows what the rounding does to images, and saves nothing.
"""

from dataclasses import dataclass

import torch

from lego_serve.errors import CheckpointError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import block_layers

DTYPE, LARGEST = torch.float8_e4m3fn, 448.0
SMALLEST = 1e-12  # what a row of zeros is divided by
SIDE, CAPABILITY = 16, (8, 9)  # what a GPU's product takes: sides in 16s, from Ada Lovelace and Hopper on


def fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows x (rows, width) to e4m3: the codes, and the scales (rows, 1) in fp32 that give the rows back.

    A number that is none, or infinite, makes its row's scale no number or infinite, and no other's.
    """
    wide = x.float()
    scales = wide.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return (wide / scales).clamp(-LARGEST, LARGEST).to(DTYPE), scales


@dataclass(frozen=True, slots=True)
class Fp8Emulated:
    """The e4m3 form of a weight, as fp32 numbers (outputs, inputs), and its ``scales`` (outputs,)."""

    numbers: torch.Tensor
    scales: torch.Tensor
    ops: LinearOps

    @classmethod
    def of(cls, weight: torch.Tensor, ops: LinearOps) -> "Fp8Emulated":
        """Round a weight, a scale for each output."""
        codes, scales = fp8_rows(weight)
        return cls(codes.float(), scales[:, 0], ops)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute ``x @ weight.T + bias`` for rows x (rows, inputs); a row's result is a function of that row alone."""
        codes, scales = fp8_rows(x)
        out = self.ops.linear(codes.float(), self.numbers).mul_(scales).mul_(self.scales)
        return (out if bias is None else out.add_(bias)).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Fp8Matmul:
    """The e4m3 form of a weight: ``codes`` (outputs, inputs) and ``scales`` (outputs, 1), for rows of any dtype."""

    codes: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Fp8Matmul":
        """Round a weight, a scale for each output.  Raises ValueError where a side is not in 16s, or the GPU is old."""
        if weight.shape[0] % SIDE or weight.shape[1] % SIDE:
            raise ValueError(f"a weight of shape {list(weight.shape)} has a side that is not in {SIDE}s")
        if weight.is_cuda and (found := torch.cuda.get_device_capability(weight.device)) < CAPABILITY:
            needed = ".".join(map(str, CAPABILITY))
            raise ValueError(f"{weight.device} has compute capability {'.'.join(map(str, found))}, {needed} is needed")
        return cls(*fp8_rows(weight))

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute ``x @ weight.T + bias`` for rows x (rows, inputs)."""
        codes, scales = fp8_rows(x)
        out = torch._scaled_mm(codes, self.codes.t(), scales, self.scales.t(), out_dtype=torch.bfloat16).to(x.dtype)
        return out if bias is None else out.add_(bias)


def use_fp8_rows(backbone: Backbone, name: str) -> None:
    """Have the blocks of a backbone multiply in e4m3; what runs over a row a branch stays as it is.

    Raises CheckpointError for a backbone whose layers its GPU cannot multiply so.
    """
    for path, layer in block_layers(vars(backbone)).items():
        try:
            on_cpu = layer.weight.device.type == "cpu"
            layer.kind = Fp8Emulated.of(layer.weight, layer.ops) if on_cpu else Fp8Matmul.of(layer.weight)
        except ValueError as error:
            raise CheckpointError(f"model {name}: `linear: fp8` cannot be had for {path}: {error}") from None
