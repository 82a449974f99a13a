"""Matrix products whose result for a row does not depend on how many rows there are.

A BLAS picks its kernel by the shape, so the same row can come out with other last bits in a
smaller batch.  A probe finds, for each layer shape, the fewest rows from which results stay put;
calls with fewer rows are padded to it.  Where no such number exists the product runs in blocks of
BLOCK_ROWS.  Invariant: ``linear(x)[i]`` is a function of ``x[i]`` and the weights alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F

from lego_serve.models.dtypes import multiplies_bf16

CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SMALL_ROWS = (*range(1, 10), 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 96, 100, 127, 129)
PROBE_ROWS = (*SMALL_ROWS, 160, 192, 200, 255, 256, 257, 320, 384, 511)
BLOCK_ROWS = 256
MAX_PROBE_ROWS = 512
TINY = 2.0**-20  # what probes add to a 16-bit product, which is a rounding error itself


@dataclass(slots=True)
class LinearOps:
    """The products that one model's linear layers are computed with; batch-invariant while ``batch_invariant``.

    All layers of a backbone share one, so that dropping the rule for a model changes no other model in the process.
    """

    batch_invariant: bool = True

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Compute ``x @ weight.T + bias`` for rows x (rows, inputs)."""
        if not self.batch_invariant:
            return F.linear(x, weight, bias)
        fewest = stable_rows(weight.shape[1], weight.shape[0], x.dtype, str(x.device), bias is not None)
        if fewest is None:
            return torch.cat([_padded(part, weight, bias, BLOCK_ROWS) for part in x.split(BLOCK_ROWS)])
        return F.linear(x, weight, bias) if x.shape[0] >= fewest else _padded(x, weight, bias, fewest)

    def linear_gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """Compute the tanh approximation of GELU over ``x @ weight.T + bias`` in one pass; None where it does not pay.

        It pays in bf16 on a CPU, where oneDNN multiplies either way and GELU by itself takes as long as a small
        product (``python -m benchmarks.engine gelu``).  The product is not rounded before it.
        """
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or not fuses_gelu():
            return None
        fewest: int | None = 1
        if self.batch_invariant:
            fewest = stable_rows_gelu(weight.shape[1], weight.shape[0], bias is not None)
        if fewest is None:
            return None
        rows = x.shape[0]
        filled = x if rows >= fewest else F.pad(x, (0, 0, 0, fewest - rows))
        return _fused_gelu(filled, weight, bias)[:rows]

    def add_linear(self, out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
        """Add ``x @ weight.T`` to out (rows, outputs) in place, for rows x (rows, inputs).

        One pass over ``out`` takes half the time of a product that is added afterwards.
        """
        rows, fewest = x.shape[0], 1
        if self.batch_invariant:
            stable = stable_rows_added(weight.shape[1], weight.shape[0], x.dtype, str(x.device))
            if stable is None:
                out.add_(self.linear(x, weight))
                return
            fewest = stable
        if rows >= fewest:
            out.addmm_(x, weight.T)
            return
        filled = F.pad(out, (0, 0, 0, fewest - rows))
        out.copy_(filled.addmm_(F.pad(x, (0, 0, 0, fewest - rows)), weight.T)[:rows])


@cache
def fuses_gelu() -> bool:
    """Return whether ``LinearOps.linear_gelu`` pays on this machine."""
    return multiplies_bf16() and torch.backends.mkldnn.is_available()


@cache
def stable_rows(inputs: int, outputs: int, dtype: torch.dtype, device: str, has_bias: bool) -> int | None:
    """Return the fewest rows from which ``linear`` is batch-invariant for this shape; None where there are none."""
    x, weight, bias = _sample_layer(inputs, outputs, dtype, device, has_bias)
    return _fewest_stable(lambda start, stop: F.linear(x[start:stop].clone(), weight, bias))


@cache
def stable_rows_gelu(inputs: int, outputs: int, has_bias: bool) -> int | None:
    """Return the fewest rows from which ``linear_gelu`` is batch-invariant; None where there are none."""
    x, weight, bias = _sample_layer(inputs, outputs, torch.bfloat16, "cpu", has_bias)
    return _fewest_stable(lambda start, stop: _fused_gelu(x[start:stop].clone(), weight, bias))


@cache
def stable_rows_added(inputs: int, outputs: int, dtype: torch.dtype, device: str) -> int | None:
    """Return the fewest rows from which ``add_linear`` is batch-invariant, where rows and sums lie apart in memory."""
    x, weight, _ = _sample_layer(inputs, outputs, dtype, device, False)
    x = F.pad(x, (8, 8))[:, 8 : 8 + inputs]
    generator = torch.Generator().manual_seed(1)
    start_values = torch.randn(MAX_PROBE_ROWS, 3 * outputs, generator=generator)
    start_values = (start_values * (TINY if _rounds(dtype) else 1)).to(device, dtype)

    def added(start: int, stop: int) -> torch.Tensor:
        wide = start_values[start:stop].clone()
        return wide[:, outputs : 2 * outputs].addmm_(x[start:stop], weight.T)

    return _fewest_stable(added)


def _sample_layer(
    inputs: int, outputs: int, dtype: torch.dtype, device: str, has_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Draw rows to probe with, a weight and a bias.

    Sums in another order differ in their last fp32 bits, which rounding to 16 bits hides from all but one number in
    some 20,000.  There the terms are drawn in pairs that cancel: what is left is the rounding error of the sum alone,
    which hardly any other order shares.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    x = torch.randn(MAX_PROBE_ROWS, inputs, generator=generator)
    if _rounds(dtype):
        half = inputs // 2
        x *= torch.exp2(torch.randint(-4, 5, x.shape, generator=generator))
        x[:, half : 2 * half], x[:, 2 * half :] = -x[:, :half], 0
        weight[:, half : 2 * half], bias = weight[:, :half], bias * TINY
    return x.to(device, dtype), weight.to(device, dtype), bias.to(device, dtype) if has_bias else None


def _rounds(dtype: torch.dtype) -> bool:
    """Return whether sums, which are fp32, are rounded to fewer bits."""
    return dtype.itemsize < torch.float32.itemsize


def _fewest_stable(product: Callable[[int, int], torch.Tensor]) -> int | None:
    """Return the fewest of CANDIDATES from which ``product`` of rows [start, stop) equals those rows of the whole."""
    whole, unstable = product(0, MAX_PROBE_ROWS), 0
    for rows in PROBE_ROWS:
        for start in (0, 1, MAX_PROBE_ROWS - rows):
            if not torch.equal(product(start, start + rows), whole[start : start + rows]):
                unstable = rows
    return next((candidate for candidate in CANDIDATES if candidate > unstable), None)


def _fused_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return out


def _padded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> torch.Tensor:
    return F.linear(F.pad(x, (0, 0, 0, rows - x.shape[0])), weight, bias)[: x.shape[0]]
