"""Random arguments of given sizes for every op, for the tests and the benchmark."""

from collections.abc import Sequence
from typing import Any

import torch

from lego_kernels.active_rows import Blend
from lego_kernels.low_rank import Factors, Segments

Arguments = dict[str, Any]


def norm_modulate(rows: int, width: int, branches: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Return arguments of norm_modulate, with branches in random order."""
    draw = _Draw(dtype, device)
    x, shift, scale = draw(rows, width), draw(branches, width), draw(branches, width)
    return {"x": x, "shift": shift, "scale": scale, "branch": draw.branch(rows, branches)}


def gated_residual(rows: int, width: int, branches: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Return arguments of gated_residual, with branches in random order."""
    draw = _Draw(dtype, device)
    x, update, gate = draw(rows, width), draw(rows, width), draw(branches, width)
    return {"x": x, "update": update, "gate": gate, "branch": draw.branch(rows, branches)}


def residual_norm_modulate(rows: int, width: int, branches: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Return arguments of residual_norm_modulate, with branches in random order."""
    draw = _Draw(dtype, device)
    arguments: Arguments = {"x": draw(rows, width), "update": draw(rows, width)}
    tables = {name: draw(branches, width) for name in ("gate", "shift", "scale")}
    return arguments | tables | {"branch": draw.branch(rows, branches)}


def qk_norm_rope(
    tokens: int, heads: int, width: int, dtype: torch.dtype, device: str = "cpu", *, parts: str = "q k rope"
) -> Arguments:
    """Return arguments of qk_norm_rope: the weights and the angles named in ``parts``, None for the rest."""
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
    """Return arguments of lora_shrink: segments of these lengths, three rows before each, that take factors in turn."""
    draw, segments = _Draw(dtype, device), _segments(lengths, len(ranks))
    x = draw(segments.end + 3, width)
    return {"x": x, "down": Factors.down(*(draw(rank, width) / width**0.5 for rank in ranks)), "segments": segments}


def lora_expand(
    lengths: Sequence[int], width: int, ranks: Sequence[int], dtype: torch.dtype, device: str = "cpu"
) -> Arguments:
    """Return arguments of lora_expand for such segments; factor i's hidden values begin at column i."""
    draw, segments = _Draw(dtype, device), _segments(lengths, len(ranks))
    ups = [draw(width, rank) / rank**0.5 for rank in ranks]
    factors = Factors.up(*ups, columns=tuple(range(len(ranks))))
    out, hidden = draw(segments.end + 3, width), draw(segments.end + 3, factors.hidden + 2)
    return {"out": out, "hidden": hidden, "up": factors, "segments": segments}


def int8_rows(rows: int, width: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Return rows of sizes from a ten-thousandth to ten thousand, and zeros in the last of several."""
    x = _Draw(dtype, device)(rows, width) * torch.logspace(-4, 4, rows)[:, None].to(device, dtype)
    x[1:][-1:] = 0
    return {"x": x}


def sparse24(rows: int, width: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """Return rows in tenths, so that many numbers have the magnitude of a neighbour."""
    return {"x": (_Draw(torch.float32, device)(rows, width) * 10).round().div(10).to(dtype)}


def gather_rows(
    channels: int, lines: int, across: int, active: int | None, dtype: torch.dtype, device: str = "cpu"
) -> Arguments:
    """Return float32 latents of so many lines of tokens, and random active ones, or None for all of them."""
    draw = _Draw(torch.float32, device)
    latents, chosen = draw(channels, 2 * lines, 2 * across), draw.chosen(active, lines * across)
    return {"latents": latents, "active": chosen, "patch": 2, "dtype": dtype}


def scatter_rows(
    channels: int,
    lines: int,
    across: int,
    active: int | None,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    parts: str = "last kept blend",
) -> Arguments:
    """Return latents, rows of random active tokens, or of all, and what is named in ``parts``, None for the rest."""
    draw = _Draw(dtype, device)
    shape = channels, 2 * lines, 2 * across
    latents, chosen = draw(*shape), draw.chosen(active, lines * across)
    rows = draw(lines * across if chosen is None else len(chosen), 4 * channels)
    blend = Blend(draw(*shape[1:]) > 0, draw(*shape), draw(*shape)) if "blend" in parts else None
    kept = draw(*shape) if "kept" in parts else None
    sizes = {"patch": 2, "channels_last": "last" in parts}
    arguments: Arguments = {"latents": latents, "rows": rows, "active": chosen, "sigmas": (0.7, 0.6)}
    return arguments | sizes | {"kept": kept, "blend": blend}


def _segments(lengths: Sequence[int], factors: int) -> Segments:
    rows, end = [], 0
    for index, length in enumerate(lengths):
        start = end + 3
        end = start + length
        rows.append((start, end, index % factors))
    return Segments(tuple(rows))


def widened(arguments: Arguments) -> Arguments:
    """Return the arguments with floats in float64, in which a reference is exact enough to judge by."""
    return {name: _wide(value) for name, value in arguments.items()}


def _wide(value: Any) -> Any:
    if isinstance(value, Factors):
        return Factors(tuple(weight.double() for weight in value.weights), value.columns, value.ranks, value.side)
    if isinstance(value, Blend):
        return Blend(value.mask, value.image.double(), value.noise.double())
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


class _Draw:
    """Draws normal values from one seed, on the CPU, so that every device gets the same."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._dtype, self._device = dtype, device

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, self._dtype)

    def chosen(self, count: int | None, of: int) -> torch.Tensor | None:
        """Return so many different numbers below ``of``, ascending; None for None."""
        if count is None:
            return None
        return torch.randperm(of, generator=self._generator)[:count].sort().values.to(self._device)

    def branch(self, rows: int, branches: int) -> torch.Tensor:
        return torch.randint(branches, (rows,), generator=self._generator).to(self._device)
