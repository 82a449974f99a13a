"""Linear layers of 8-bit products: weights with a scale for each output, rows with a scale for each row.

A scale for a whole batch of rows, as torch's dynamic layers take it, would tie a row to its mates.  Here each row is
divided by its own largest number first, so that all of them span the same range.  On a CPU a row that does so from -1
to 1 is added: the batch's scale then is the same constant for any rows.  On a GPU the rows' codes are a kernel's.
Either way sums of whole numbers are exact in any order.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lego_kernels import int8_rows
from lego_serve.errors import CheckpointError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.layers import block_layers

SMALLEST = 1e-12  # what a row of zeros is divided by
LEAST_ROWS, SIDE = 32, 8  # what a GPU's product of 8-bit numbers takes: more than 16 rows, sides in eights


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """The 8-bit form of a weight (outputs, inputs), for rows of fp32 on a CPU."""

    packed: Any
    inputs: int

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8Rows":
        """Round a weight to 8 bits, a scale for each output."""
        scales = weight.abs().amax(dim=1).clamp_min(SMALLEST) / 127
        zeros = torch.zeros(weight.shape[0], dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch is to drop such tensors some day; constraints.txt pins it
            quantised = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        return cls(torch.ops.quantized.linear_prepack(quantised, None), int(weight.shape[1]))

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute ``x @ weight.T + bias`` for rows x (rows, inputs); a row's result is a function of that row alone."""
        largest = x.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
        spanning = x.new_zeros(1, self.inputs)
        spanning[0, 0], spanning[0, 1] = 1.0, -1.0
        # Seven bits for rows: eight of both overflow the 16-bit sums of pairs on CPUs without VNNI.
        out = torch.ops.quantized.linear_dynamic(torch.cat([x / largest, spanning]), self.packed, True)[:-1]
        scaled: torch.Tensor = out * largest
        return scaled if bias is None else scaled + bias


def int8_rows_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute what ``Int8Rows`` does with plain whole numbers in double precision: the specification of its kernel."""
    scales = (weight.abs().amax(dim=1).clamp_min(SMALLEST) / 127).double()
    rounded = (weight.double() / scales[:, None]).round().clamp(-128, 127)
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
    step = 2 / 127  # of seven bits over [-1, 1]
    rows = ((x / largest).double() / step).round()
    out = F.linear(rows, rounded) * scales * step * largest.double()
    return (out if bias is None else out + bias.double()).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Int8Matmul:
    """The 8-bit form of a weight (outputs, inputs), for rows of any dtype on a GPU, whose sums hold 32 bits.

    ``codes`` (outputs, inputs) and ``scales`` (outputs,) are those of ``int8_rows``, as the rows' are.
    """

    codes: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8Matmul":
        """Round a weight to 8 bits, a scale for each output.  Raises ValueError where a side is not in eights."""
        if weight.shape[0] % SIDE or weight.shape[1] % SIDE:
            raise ValueError(f"a weight of shape {list(weight.shape)} has a side that is not in {SIDE}s")
        return cls(*int8_rows(weight))

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute ``x @ weight.T + bias`` for rows x (rows, inputs); a row's result is a function of that row alone."""
        codes, scales = int8_rows(x)
        filled = F.pad(codes, (0, 0, 0, max(LEAST_ROWS - len(x), 0)))
        sums = torch._int_mm(filled, self.codes.t())[: len(x)]
        out = sums.float().mul_(scales[:, None]).mul_(self.scales)
        return (out if bias is None else out.add_(bias)).to(x.dtype)


def use_int8_rows(backbone: Backbone, name: str) -> None:
    """Have the blocks of a backbone multiply in 8 bits; what runs over a row a branch stays as it is.

    Raises CheckpointError for a backbone that does not compute in fp32 on a CPU, or whose layers a GPU cannot multiply.
    """
    for path, layer in block_layers(vars(backbone)).items():
        weight = layer.weight
        if weight.device.type == "cpu":
            if weight.dtype != torch.float32:
                dtype = str(weight.dtype).removeprefix("torch.")
                raise CheckpointError(f"model {name}: on a CPU `linear: int8` is for `dtype: float32`; this is {dtype}")
            layer.kind = Int8Rows.of(weight)
            continue
        try:
            layer.kind = Int8Matmul.of(weight)
        except ValueError as error:
            raise CheckpointError(f"model {name}: `linear: int8` cannot be had for {path}: {error}") from None
