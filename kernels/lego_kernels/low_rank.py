"""The arguments that lora_shrink and lora_expand share: low-rank factors, and the rows that take them.

Both are made once for a composition of the batch and used in every layer and step while it lasts; a GPU reads them from
tables of integers that are sent to it once.
"""

from dataclasses import dataclass, field

import torch

from lego_kernels.checks import check_float


@dataclass(frozen=True, eq=False)
class Segments:
    """Rows [start, stop) and the index of the factors they take, in order; rows of no segment take none.

    Raises ValueError where segments overlap, are out of order or end before they start; an empty one is allowed.
    """

    rows: tuple[tuple[int, int, int], ...]
    _tables: dict[torch.device, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        end = 0
        for start, stop, which in self.rows:
            if start < end or stop < start or which < 0:
                raise ValueError(f"segment {(start, stop, which)} does not follow rows up to {end}")
            end = stop

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.rows[-1][1] if self.rows else 0

    @property
    def longest(self) -> int:
        """The rows of the longest segment."""
        return max((stop - start for start, stop, _ in self.rows), default=0)

    @property
    def factors(self) -> int:
        """The number of factors they need: the largest index plus one."""
        return 1 + max((which for _, _, which in self.rows), default=-1)

    def table(self, device: torch.device) -> torch.Tensor:
        """Return ``rows`` (n, 3) of int64 on a device."""
        return _cached_table(self._tables, device, list(self.rows))


@dataclass(frozen=True, eq=False)
class Factors:
    """Weights of different ranks; ``columns``: the first of the hidden values that each of them writes or reads.

    ``down`` weights are (rank, inputs), ``up`` weights (outputs, rank).
    Raises ValueError where weights differ in dtype, device or inner side, or one is not contiguous.
    """

    weights: tuple[torch.Tensor, ...]
    columns: tuple[int, ...]
    ranks: tuple[int, ...]
    side: int  # inputs of `down`, outputs of `up`
    _tables: dict[torch.device, torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def down(cls, *weights: torch.Tensor) -> "Factors":
        """Take weights (rank, inputs), whose hidden values all begin at column 0."""
        ranks = _checked_ranks(weights, rank_side=0)
        return cls(weights, (0,) * len(weights), ranks, int(weights[0].shape[1]) if weights else 0)

    @classmethod
    def up(cls, *weights: torch.Tensor, columns: tuple[int, ...] = ()) -> "Factors":
        """Take weights (outputs, rank); each reads hidden values from its column on, from 0 without ``columns``."""
        columns = columns or (0,) * len(weights)
        if len(columns) != len(weights) or min(columns, default=0) < 0:
            raise ValueError(f"{len(weights)} weights have columns {columns}")
        ranks = _checked_ranks(weights, rank_side=1)
        return cls(weights, columns, ranks, int(weights[0].shape[0]) if weights else 0)

    @property
    def hidden(self) -> int:
        """The number of columns of hidden values that they need."""
        return max((column + rank for column, rank in zip(self.columns, self.ranks, strict=True)), default=0)

    @property
    def widest(self) -> int:
        """The largest rank."""
        return max(self.ranks, default=0)

    def table(self, device: torch.device) -> torch.Tensor:
        """Return the address, rank and column of each weight: (n, 3) of int64 on a device."""
        factors = zip(self.weights, self.ranks, self.columns, strict=True)
        rows = [(weight.data_ptr(), rank, column) for weight, rank, column in factors]
        return _cached_table(self._tables, device, rows)


def check_low_rank(name: str, x: torch.Tensor, factors: Factors, segments: Segments) -> None:
    """Raise ValueError unless x is (T, D) and holds the segments' rows, and there are factors for all of them."""
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{name} has shape {list(x.shape)}, must be [T, D] with D >= 1")
    check_float(name, x)
    if segments.end > x.shape[0]:
        raise ValueError(f"{name} has {x.shape[0]} rows, the segments end at {segments.end}")
    if segments.factors > len(factors.weights):
        raise ValueError(f"the segments name factors up to {segments.factors - 1}, there are {len(factors.weights)}")
    first = factors.weights[0] if factors.weights else x
    if first.dtype is not x.dtype or first.device != x.device:
        raise ValueError(f"factors are {first.dtype} on {first.device}, {name} is {x.dtype} on {x.device}")


def _checked_ranks(weights: tuple[torch.Tensor, ...], rank_side: int) -> tuple[int, ...]:
    """Return the rank of each weight.  Raises ValueError where weights do not go together."""
    for weight in weights:
        if weight.ndim != 2 or not weight.shape[rank_side] or not weight.is_contiguous():
            raise ValueError(
                f"a factor has shape {list(weight.shape)}, must be contiguous of two dimensions, rank >= 1"
            )
        first = weights[0]
        if weight.shape[1 - rank_side] != first.shape[1 - rank_side] or weight.dtype is not first.dtype:
            raise ValueError(f"factors of shape {list(weight.shape)} and {list(first.shape)} do not go together")
        if weight.device != first.device:
            raise ValueError(f"factors lie on {weight.device} and {first.device}")
    return tuple(int(weight.shape[rank_side]) for weight in weights)


def _cached_table(
    tables: dict[torch.device, torch.Tensor], device: torch.device, rows: list[tuple[int, int, int]]
) -> torch.Tensor:
    if device not in tables:
        table = torch.tensor(rows, dtype=torch.int64).view(-1, 3)
        # Out of pageable memory the copy would wait for all that the device has been given before.
        table = table.pin_memory() if device.type == "cuda" else table
        tables[device] = table.to(device, non_blocking=True)
    return tables[device]
