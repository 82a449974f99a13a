"""Random arguments for every op, in the sizes asked for: what the tests and the benchmark feed."""

from collections.abc import Sequence
from typing import Any

import torch

from lego_kernels.low_rank import Factors, Segments

Arguments = dict[str, Any]


def norm_modulate(rows: int, width: int, branches: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Arguments of norm_modulate, its branches in no order."""
    draw = _Draw(dtype, device)
    x, shift, scale = draw(rows, width), draw(branches, width), draw(branches, width)
    return {"x": x, "shift": shift, "scale": scale, "branch": draw.branch(rows, branches)}


def gated_residual(rows: int, width: int, branches: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Arguments of gated_residual, its branches in no order."""
    draw = _Draw(dtype, device)
    x, update, gate = draw(rows, width), draw(rows, width), draw(branches, width)
    return {"x": x, "update": update, "gate": gate, "branch": draw.branch(rows, branches)}


def qk_norm_rope(
    tokens: int, heads: int, width: int, dtype: torch.dtype, device: str = "cpu", *, parts: str = "q k rope"
) -> Arguments:
    """Arguments of qk_norm_rope: the weights and the angles named in parts, None for the rest."""
    draw = _Draw(dtype, device)
    arguments: Arguments = {"qkv": draw(tokens, 3, heads, width), "eps": 1e-6}
    for name in ("q", "k"):
        arguments[f"{name}_weight"] = 1 + 0.1 * draw(width) if name in parts.split() else None
    rope = "rope" in parts.split()
    angles = draw(tokens, (width + 1) // 2).float().mul(3).repeat_interleave(2, dim=1)[:, :width]
    arguments["cos"], arguments["sin"] = (angles.cos(), angles.sin()) if rope else (None, None)
    return arguments


def lora_shrink(
    lengths: Sequence[int], width: int, ranks: Sequence[int], dtype: torch.dtype, device: str = "cpu"
) -> Arguments:
    """Arguments of lora_shrink: segments of these lengths with a gap of three rows before each, factors in turn."""
    draw, segments = _Draw(dtype, device), _segments(lengths, len(ranks))
    x = draw(segments.end + 3, width)
    return {"x": x, "down": Factors.down(*(draw(rank, width) / width**0.5 for rank in ranks)), "segments": segments}


def lora_expand(
    lengths: Sequence[int], width: int, ranks: Sequence[int], dtype: torch.dtype, device: str = "cpu"
) -> Arguments:
    """Arguments of lora_expand, likewise; each factor's hidden values begin at a column of its own."""
    draw, segments = _Draw(dtype, device), _segments(lengths, len(ranks))
    ups = [draw(width, rank) / rank**0.5 for rank in ranks]
    factors = Factors.up(*ups, columns=tuple(range(len(ranks))))
    out, hidden = draw(segments.end + 3, width), draw(segments.end + 3, factors.hidden + 2)
    return {"out": out, "hidden": hidden, "up": factors, "segments": segments}


def _segments(lengths: Sequence[int], factors: int) -> Segments:
    at, rows = 0, []
    for index, length in enumerate(lengths):
        rows.append((at + 3, at + 3 + length, index % factors))
        at += 3 + length
    return Segments(tuple(rows))


def widened(arguments: Arguments) -> Arguments:
    """The same arguments with floats in float64, in which a reference is exact enough to judge by."""
    return {name: _wide(value) for name, value in arguments.items()}


def _wide(value: Any) -> Any:
    if isinstance(value, Factors):
        return Factors(tuple(w.double() for w in value.weights), value.columns, value.ranks, value.side)
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


class _Draw:
    """Normal values from one seed, drawn on the CPU so that every device gets the same."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._dtype, self._device = dtype, device

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, self._dtype)

    def branch(self, rows: int, branches: int) -> torch.Tensor:
        return torch.randint(branches, (rows,), generator=self._generator).to(self._device)
