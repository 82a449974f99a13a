"""Linear layers whose result for a row does not depend on how many rows there are.

A BLAS picks its kernel by the shape, so the same row can come out with other last bits in a
smaller batch.  A probe finds, for each layer shape, the fewest rows from which results stay put;
calls with fewer rows are padded to it.  Where no such number exists the layer runs in blocks of
BLOCK_ROWS.  Invariant: ``linear(x)[i]`` is a function of ``x[i]`` and the weights alone.
"""

from functools import cache

import torch
from torch.nn import functional as F

CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SMALL_ROWS = (*range(1, 10), 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 96, 100, 127, 129)
PROBE_ROWS = (*SMALL_ROWS, 160, 192, 200, 255, 256, 257, 320, 384, 511)
BLOCK_ROWS = 256
_rule = {"row-stable": True}  # a process runs one backbone; the replica sets this once, before its first step


def keep_rows_stable(keep: bool) -> None:
    """Keep or drop the rule for this process."""
    _rule["row-stable"] = keep


def rows_are_kept_stable() -> bool:
    """Whether the rule holds in this process."""
    return _rule["row-stable"]


@cache
def stable_rows(inputs: int, outputs: int, dtype: torch.dtype, device: str, has_bias: bool) -> int | None:
    """The fewest rows from which a layer of this shape is row-stable; None where there is no such number."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(device, dtype)
    bias = torch.randn(outputs, generator=generator).to(device, dtype) if has_bias else None
    x = torch.randn(512, inputs, generator=generator).to(device, dtype)
    whole = F.linear(x, weight, bias)
    unstable = 0
    for rows in PROBE_ROWS:
        for start in (0, 1, 512 - rows):
            part = x[start : start + rows].clone()
            if not torch.equal(F.linear(part, weight, bias), whole[start : start + rows][: len(part)]):
                unstable = rows
    return next((c for c in CANDIDATES if c > unstable), None)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` for rows x (rows, inputs), row-stable unless the rule was dropped."""
    rows = x.shape[0]
    if not rows_are_kept_stable():
        return F.linear(x, weight, bias)
    fewest = stable_rows(weight.shape[1], weight.shape[0], x.dtype, str(x.device), bias is not None)
    if fewest is None:
        return torch.cat([_padded(part, weight, bias, BLOCK_ROWS) for part in x.split(BLOCK_ROWS)])
    return F.linear(x, weight, bias) if rows >= fewest else _padded(x, weight, bias, fewest)


def _padded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> torch.Tensor:
    return F.linear(F.pad(x, (0, 0, 0, rows - x.shape[0])), weight, bias)[: x.shape[0]]
