"""Linear layers whose result for a row does not depend on how many rows there are.

A BLAS picks its kernel by the shape, so the same row can come out with other last bits in a
smaller batch.  A probe finds, for each layer shape, the fewest rows from which results stay put;
calls with fewer rows are padded to it.  Where no such number exists the layer runs in blocks of
BLOCK_ROWS.  Invariant: ``linear(x)[i]`` is a function of ``x[i]`` and the weights alone.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

from lego_serve.models.dtypes import multiplies_bf16

CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SMALL_ROWS = (*range(1, 10), 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 96, 100, 127, 129)
PROBE_ROWS = (*SMALL_ROWS, 160, 192, 200, 255, 256, 257, 320, 384, 511)
BLOCK_ROWS = 256
MOST_ROWS = 512  # of a probe
_rule = {"row-stable": True}  # a process runs one backbone; the replica sets this once, before its first step


def set_batch_invariant(keep: bool) -> None:
    """Keep or drop the rule for this process."""
    _rule["row-stable"] = keep


def is_batch_invariant() -> bool:
    """Whether the rule holds in this process."""
    return _rule["row-stable"]


@cache
def stable_rows(inputs: int, outputs: int, dtype: torch.dtype, device: str, has_bias: bool) -> int | None:
    """The fewest rows from which a layer of this shape is row-stable; None where there is no such number."""
    x, weight, bias = _layer(inputs, outputs, dtype, device, has_bias)
    return _fewest(lambda start, stop: F.linear(x[start:stop].clone(), weight, bias))


@cache
def stable_rows_gelu(inputs: int, outputs: int, has_bias: bool) -> int | None:
    """The same for ``linear_gelu``."""
    x, weight, bias = _layer(inputs, outputs, torch.bfloat16, "cpu", has_bias)
    return _fewest(lambda start, stop: _with_gelu(x[start:stop].clone(), weight, bias))


@cache
def stable_rows_added(inputs: int, outputs: int, dtype: torch.dtype, device: str) -> int | None:
    """The same for ``add_linear``, whose rows and sums lie apart in memory."""
    x, weight, _ = _layer(inputs + 16, outputs, dtype, device, False)
    x, weight = x[:, 8 : 8 + inputs], weight[:, :inputs].contiguous()
    start_values = torch.randn(MOST_ROWS, 3 * outputs, generator=torch.Generator().manual_seed(1)).to(device, dtype)

    def added(start: int, stop: int) -> torch.Tensor:
        wide = start_values[start:stop].clone()
        return wide[:, outputs : 2 * outputs].addmm_(x[start:stop], weight.T)

    return _fewest(added)


def _layer(
    inputs: int, outputs: int, dtype: torch.dtype, device: str, has_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rows to probe with, a weight and a bias."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(device, dtype)
    bias = torch.randn(outputs, generator=generator).to(device, dtype) if has_bias else None
    return torch.randn(MOST_ROWS, inputs, generator=generator).to(device, dtype), weight, bias


def _fewest(of: Callable[[int, int], torch.Tensor]) -> int | None:
    """The fewest of CANDIDATES from which the result of rows [start, stop) is theirs in the result of all."""
    whole, unstable = of(0, MOST_ROWS), 0
    for rows in PROBE_ROWS:
        for start in (0, 1, MOST_ROWS - rows):
            if not torch.equal(of(start, start + rows), whole[start : start + rows]):
                unstable = rows
    return next((c for c in CANDIDATES if c > unstable), None)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` for rows x (rows, inputs), row-stable unless the rule was dropped."""
    rows = x.shape[0]
    if not is_batch_invariant():
        return F.linear(x, weight, bias)
    fewest = stable_rows(weight.shape[1], weight.shape[0], x.dtype, str(x.device), bias is not None)
    if fewest is None:
        return torch.cat([_padded(part, weight, bias, BLOCK_ROWS) for part in x.split(BLOCK_ROWS)])
    return F.linear(x, weight, bias) if rows >= fewest else _padded(x, weight, bias, fewest)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    """The tanh approximation of GELU over ``x @ weight.T + bias`` in one pass, row-stable unless the rule was
    dropped; None where that does not pay.

    It pays in bf16 on a CPU, where oneDNN multiplies either way and GELU by itself takes as long as a small product
    (``python -m benchmarks.engine gelu``).  The product is not rounded before it.
    """
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or not fuses_gelu():
        return None
    fewest: int | None = 1
    if is_batch_invariant():
        fewest = stable_rows_gelu(weight.shape[1], weight.shape[0], bias is not None)
    if fewest is None:
        return None
    rows = x.shape[0]
    filled = x if rows >= fewest else F.pad(x, (0, 0, 0, fewest - rows))
    return _with_gelu(filled, weight, bias)[:rows]


@cache
def fuses_gelu() -> bool:
    """Whether ``linear_gelu`` pays on this machine."""
    return multiplies_bf16() and torch.backends.mkldnn.is_available()


def _with_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    said: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return said


def add_linear(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
    """``out += x @ weight.T`` for rows x (rows, inputs) in place, row-stable unless the rule was dropped.

    In one pass over ``out``, which takes half the time of a product that is added afterwards.
    """
    rows, fewest = x.shape[0], 1
    if is_batch_invariant():
        found = stable_rows_added(weight.shape[1], weight.shape[0], x.dtype, str(x.device))
        if found is None:
            out.add_(linear(x, weight))
            return
        fewest = found
    if rows >= fewest:
        out.addmm_(x, weight.T)
        return
    filled = F.pad(out, (0, 0, 0, fewest - rows))
    out.copy_(filled.addmm_(F.pad(x, (0, 0, 0, fewest - rows)), weight.T)[:rows])


def _padded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> torch.Tensor:
    return F.linear(F.pad(x, (0, 0, 0, rows - x.shape[0])), weight, bias)[: x.shape[0]]
