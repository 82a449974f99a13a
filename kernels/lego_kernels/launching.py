"""How a tensor is divided into the programs of a kernel, and on which device they are launched."""

from contextlib import AbstractContextManager, nullcontext

import torch

MAX_WIDTH = 16384  # one program holds a whole row in registers: 32 values a thread with the most warps
VALUES_PER_WARP = 512  # 16 a thread: two 16-byte loads of half precision in flight
MAX_WARPS = 16


def block_of(name: str, width: int) -> int:
    """Return the power of two that covers a row.  Raises ValueError where a program could not hold it."""
    if width > MAX_WIDTH:
        raise ValueError(f"{name} has rows of {width} values, the kernel takes at most {MAX_WIDTH}")
    return power_of_two(width)


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << (least - 1).bit_length()


def warps_of(values: int) -> int:
    """Return the warps of a program that holds this many values, a power of two."""
    return min(max(values // VALUES_PER_WARP, 1), MAX_WARPS)


def unit_columns(x: torch.Tensor) -> torch.Tensor:
    """Return x where the values of a row are neighbours in memory, else a copy in which they are."""
    return x if x.stride(-1) == 1 else x.contiguous()


def device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """Return the context in which Triton launches on x's GPU rather than on the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
