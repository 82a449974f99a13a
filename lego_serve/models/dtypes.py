"""Which numbers this machine multiplies well."""

from functools import cache

import torch

from lego_serve.models.registry import ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(spec: ModelSpec) -> torch.dtype:
    """The dtype to run in; ``auto`` on a CPU is bf16 only where the CPU multiplies it in hardware."""
    if spec.dtype != "auto":
        return DTYPES[spec.dtype]
    if spec.device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if multiplies_bf16() else torch.float32


def arithmetic(device: torch.device | str) -> str:
    """Return what decides, besides dtypes, which bits a device's products have: its kind and the library's version."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    bf16 = " with bf16" if multiplies_bf16() else ""
    return f"{torch.backends.cpu.get_cpu_capability()}{bf16}, torch {torch.__version__}"


@cache
def multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
