"""Checks of an op's arguments: shapes, dtypes and devices, never values, so that nothing waits for a GPU.

They run at every call, of which a step makes hundreds, and must take a few microseconds at most.
"""

import torch

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_rows(x: torch.Tensor, branch: torch.Tensor, *tables: tuple[str, torch.Tensor]) -> None:
    """Raise ValueError unless x is (T, D), branch (T,) of int64 and every named table (B, D) like x."""
    shape, dtype, device = x.shape, x.dtype, x.device
    check_matrix("x", x)
    check_float("x", x)
    name, first = tables[0]
    if first.ndim != 2:
        raise ValueError(f"{name} has shape {list(first.shape)}, must be [B, {shape[1]}] beside x {list(shape)}")
    table_shape = (first.shape[0], shape[1])
    for name, table in tables:
        check_tensor(name, table, table_shape, dtype, device)
    check_tensor("branch", branch, shape[:1], torch.int64, device)


def check_matrix(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless the tensor is (T, D)."""
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, must be [T, D] with D >= 1")


def check_float(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless the kernels know the tensor's dtype."""
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name} is {tensor.dtype}, must be one of {', '.join(map(str, FLOATS))}")


def check_tensor(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError unless the tensor is of this shape, dtype and device."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, must be {list(shape)}")
    if tensor.dtype is not dtype:
        raise ValueError(f"{name} of shape {list(shape)} is {tensor.dtype}, must be {dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} of shape {list(shape)} is on {tensor.device}, must be on {device}")
