"""Weights as a difference to those of another model: codes of 8 bits, with a scale for each row of a matrix.

With d the difference of a row, its scale s is max |d| / 127 and its codes are round(d / s), so a weight comes back
within s / 2 (symmetric quantisation of task vectors, as in BitDelta and Delta-CoMe, with more bits).  Vectors and small
tensors are kept as plain differences in fp16; what does not differ is only named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lego_serve.models.derived.origin import FILE, Origin

CODES, SCALES, PLAIN = "codes:", "scales:", "plain:"  # before the name of a weight
MOST = 127  # of a code
SMALL = 1024  # numbers of a tensor that is not worth scales of its own
Tensors = Mapping[str, torch.Tensor]


def encode_difference(base: Tensors, student: Tensors) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return how a student's weights differ from those of its base, and the names of those that do not.

    Raises ValueError where the two have other names or shapes, or a difference is not finite.
    """
    found: dict[str, torch.Tensor] = {}
    unchanged = []
    _check_names(base, student)
    for name, weight in student.items():
        if weight.shape != base[name].shape:
            raise ValueError(f"weight {name} has the shape {list(weight.shape)}, its base {list(base[name].shape)}")
        difference = weight.detach().float().cpu() - base[name].detach().float().cpu()
        if not torch.isfinite(difference).all():
            raise ValueError(f"weight {name} differs from its base by a number that is not finite")
        if not difference.any():
            unchanged.append(name)
        elif difference.ndim < 2 or difference.numel() < SMALL:
            found[PLAIN + name] = difference.half().contiguous()
            if not torch.isfinite(found[PLAIN + name]).all():
                raise ValueError(f"weight {name} differs from its base by more than fp16 has numbers for")
        else:
            rows = _rows(difference)
            scales = rows.abs().amax(1) / MOST
            codes = torch.where(scales[:, None] > 0, rows / scales[:, None], 0.0).round().clamp(-MOST, MOST)
            found[CODES + name] = codes.to(torch.int8).reshape(difference.shape).contiguous()
            found[SCALES + name] = scales
    return found, tuple(unchanged)


def decode_difference(base: Tensors, difference: Tensors, unchanged: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the weights that a difference makes of its base, in fp32; products and sums are rounded one by one.

    Raises ValueError for a difference that is not one to this base.
    """
    made = dict.fromkeys(unchanged)
    given = {name.partition(":")[2] for name in difference} | set(made)
    _check_names(base, dict.fromkeys(given))
    return {name: weight.float() + _change(name, weight, difference, made) for name, weight in base.items()}


def apply_difference(module: Any, file: Path, unchanged: tuple[str, ...]) -> None:
    """Make a student of a module that has its base's weights, in place and in its own dtype.  Raises ValueError."""
    try:
        difference = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or incomplete: {error}") from None
    state = module.state_dict()
    try:
        weights = decode_difference({name: weight.cpu() for name, weight in state.items()}, difference, unchanged)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    with torch.no_grad():
        for name, weight in state.items():
            weight.copy_(weights[name])


def write_difference(folder: Path, base: Tensors, student: Tensors, origin: Origin) -> int:
    """Write a derived folder's difference, all at once; return its size in bytes.  Raises ValueError."""
    difference, unchanged = encode_difference(base, student)
    folder.mkdir(parents=True, exist_ok=True)
    new = (folder / FILE).with_suffix(".new")
    save_file(difference, new, metadata=Origin(origin.path, origin.weights, unchanged).to_metadata())
    new.chmod(0o644)  # as of any file of a folder; safetensors makes one for its owner alone
    new.replace(folder / FILE)
    return (folder / FILE).stat().st_size


def _change(name: str, weight: torch.Tensor, difference: Tensors, unchanged: Mapping[str, Any]) -> torch.Tensor:
    """Return what is to be added to a weight.  Raises ValueError."""
    if name in unchanged:
        return torch.zeros((), dtype=torch.float32)
    if (plain := difference.get(PLAIN + name)) is not None:
        return _checked(name, plain, weight.shape, torch.float16).float()
    codes, scales = difference.get(CODES + name), difference.get(SCALES + name)
    if codes is None or scales is None:
        raise ValueError(f"weight {name} lacks its {'codes' if codes is None else 'scales'}")
    rows = _rows(_checked(name, codes, weight.shape, torch.int8)).float()
    return (rows * _checked(name, scales, rows.shape[:1], torch.float32)[:, None]).reshape(weight.shape)


def _checked(name: str, given: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of a file that has the shape and type it is to have.  Raises ValueError."""
    if given.shape != shape or given.dtype != dtype:
        has = f"{list(given.shape)} of {given.dtype}"
        raise ValueError(f"weight {name} has a difference of the shape {has}, {list(shape)} of {dtype} is needed")
    if given.is_floating_point() and not torch.isfinite(given).all():
        raise ValueError(f"weight {name} has a difference that is not finite")
    return given


def _check_names(base: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError where weights are missing, or are of no layer of the base."""
    if missing := sorted(base.keys() - given.keys()):
        raise ValueError(f"weight {missing[0]} is missing, of {len(base)}")
    if unknown := sorted(given.keys() - base.keys()):
        raise ValueError(f"weight {unknown[0]} is none of its base's")


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Return a tensor of two dimensions or more as a matrix of output rows; a leading dimension of 1 is none."""
    return values.reshape(-1, values.shape[-1]) if values.shape[0] == 1 else values.flatten(1)
