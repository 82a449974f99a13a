"""Activations in 2:4: of every four numbers of a row the two largest, as sparse tensor cores take them.

Layers of ``linear: sparse24`` multiply the rows of ``sparse24_rows``, zeros and all, by a dense product.  The packed
form is what sparse tensor cores read; no product takes it yet, so tests and ``kernels/bench.py`` alone use it.
"""

import torch

from lego_kernels.checks import check_float, check_matrix, check_tensor

GROUP = 4  # numbers of which two are kept
NAN_BITS = 0x7F800001  # infinity's and one


def sparse24(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two largest by magnitude of every four numbers, and where they stood.

    Takes x (T, D), whose rows may lie apart in memory; returns values (T, D / 2) of its dtype, each pair in the order
    in which it stood, and places (T, ceil(D / 8)) of uint8.  A group of four has four bits: the first value's place in
    the group and, two bits above it, the second's; the lower half of a byte is of the group that comes first, and a
    half of no group is 0.  Of equal magnitudes the one that stands first is larger, and what is not a number is larger
    than any.

    Raises ValueError, naming the argument and the shapes, where a rank or dtype does not fit, or D is not in fours.
    """
    _check(x)
    if x.is_cuda:
        from lego_kernels.triton_kernels.sparse24 import sparse24_triton

        return sparse24_triton(x)
    groups = x.unflatten(1, (-1, GROUP))
    # As whole numbers the bits of magnitudes have the order of magnitudes; any NaN comes after infinity.
    magnitudes = groups.float().abs().view(torch.int32).clamp_max(NAN_BITS)
    places = magnitudes.argsort(dim=-1, descending=True, stable=True)[..., :2].sort(dim=-1).values
    return groups.gather(-1, places).flatten(1), _in_bytes(places[..., 0] | places[..., 1] << 2)


def sparse24_unpack(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the rows (T, D) of values and places as ``sparse24`` returns them: zeros where a number was dropped.

    Raises ValueError, naming the argument and the shapes, where a shape, dtype or device does not fit.
    """
    check_matrix("values", values)
    if values.shape[1] % 2:
        raise ValueError(f"values has shape {list(values.shape)}, must be [T, D / 2] of pairs")
    groups = values.shape[1] // 2
    check_tensor("places", places, (values.shape[0], -(-groups // 2)), torch.uint8, values.device)
    halves = torch.stack([places & 15, places >> 4], dim=-1).flatten(1)[:, :groups].long()
    rows = values.new_zeros(values.shape[0], groups, GROUP)
    kept = torch.stack([halves & 3, halves >> 2], dim=-1)
    return rows.scatter_(-1, kept, values.unflatten(1, (-1, 2))).flatten(1)


def sparse24_rows(x: torch.Tensor) -> torch.Tensor:
    """Return rows x (T, D) with zeros in place of what ``sparse24`` drops, which may lie apart in memory.

    It counts how many of a group come before each number, four times as fast as sorting on a CPU.  Gradients go to what
    is kept: which that is counts as constant.  Raises ValueError as ``sparse24`` does.
    """
    _check(x)
    numbers = x.detach().unflatten(1, (-1, GROUP)).float().abs().view(torch.int32).clamp_max(NAN_BITS).unbind(dim=-1)
    before = [torch.zeros_like(numbers[0], dtype=torch.int8) for _ in numbers]  # how many of its group are larger
    for first in range(GROUP):
        for second in range(first + 1, GROUP):
            is_larger = (numbers[first] >= numbers[second]).to(torch.int8)
            before[second] += is_larger
            before[first] += 1 - is_larger
    is_kept = torch.stack([each < 2 for each in before], dim=-1).flatten(1)
    return torch.where(is_kept, x, 0)


def _check(x: torch.Tensor) -> None:
    check_matrix("x", x)
    check_float("x", x)
    if x.shape[1] % GROUP:
        raise ValueError(f"x has shape {list(x.shape)}, must be [T, D] with D in {GROUP}s")


def _in_bytes(halves: torch.Tensor) -> torch.Tensor:
    """Return numbers below 16 (T, groups) two a byte: (T, ceil(groups / 2))."""
    even = torch.nn.functional.pad(halves, (0, halves.shape[1] % 2)).to(torch.uint8)
    return even[:, 0::2] | even[:, 1::2] << 4
