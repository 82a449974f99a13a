"""What the package asks of the machine it is on, and that its kernels compile for a GPU that is not there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
import lego_kernels
from lego_kernels import examples
for op in (lego_kernels.norm_modulate, lego_kernels.gated_residual):
    op(**getattr(examples, op.__name__)(3, 8, 2, torch.float32))
lego_kernels.int8_rows(**examples.int8_rows(3, 8, torch.float32))
lego_kernels.sparse24(**examples.sparse24(3, 8, torch.float32))
lego_kernels.qk_norm_rope(**examples.qk_norm_rope(3, 2, 8, torch.float32))
for op in (lego_kernels.gather_rows, lego_kernels.scatter_rows):
    op(**getattr(examples, op.__name__)(4, 3, 2, 5, torch.float32))
for op in (lego_kernels.lora_shrink, lego_kernels.lora_expand):
    op(**getattr(examples, op.__name__)([3, 2], 8, [2], torch.float32))
assert not [name for name in sys.modules if name.startswith("lego_kernels.triton_kernels.")]
assert not [name for name in sys.modules if name.split(".")[0] in ("lego_serve", "loadgen")]
"""
INTEGERS = ("stride", "heads", "width", "height", "channels", "count")
SCATTER = {"patch": 2, "channels_last": True, "halvings": 12, "block_channels": 16, "block": 64}


def test_a_cpu_needs_no_triton(tmp_path: Path) -> None:
    """Neither to import the package nor to run its ops, from whatever folder."""
    command = [sys.executable, "-c", WITHOUT_TRITON]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pointer", ["*bf16", "*fp16", "*fp32"])
@pytest.mark.parametrize(
    ("op", "constants"),
    [
        ("norm_modulate", {"block": 4096}),
        ("norm_modulate", {"block": 1, "width": 1}),
        ("gated_residual", {"block": 4096}),
        ("qk_norm_rope", {"block_heads": 8, "block": 128}),
        ("qk_norm_rope", {"block_heads": 8, "block": 128, "q_weight": None, "k_weight": None}),
        ("qk_norm_rope", {"block_heads": 8, "block": 128, "cos": None, "sin": None}),
        ("qk_norm_rope", {"block_heads": 2, "block": 512, "k_weight": None}),
        ("int8_rows", {"block": 4096}),
        ("int8_rows", {"block": 1}),
        ("sparse24", {"block": 4096}),
        ("sparse24", {"block": 16}),
        ("gather_rows", {"patch": 2, "block_rows": 16, "block": 64}),
        ("gather_rows", {"patch": 2, "block_rows": 16, "block": 64, "active": None}),
        ("scatter_rows", SCATTER),
        ("scatter_rows", SCATTER | {"kept": None, "channels_last": False}),
        ("scatter_rows", SCATTER | {"active": None, "kept": None, "mask": None, "image": None, "noise": None}),
        ("lora_shrink", {"block_rows": 32, "block_columns": 64, "block_ranks": 16, "tiles": 48}),
        ("lora_shrink", {"block_rows": 32, "block_columns": 64, "block_ranks": 256, "tiles": 48}),
        ("lora_expand", {"block_rows": 32, "block_columns": 64, "block_ranks": 16, "tiles": 4}),
    ],
    ids=str,
)
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled in this process")
def test_every_kernel_compiles_for_hopper(
    op: str, constants: dict[str, Any], pointer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler refuses Python that the interpreter runs, and needs no GPU to do so."""
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = pytest.importorskip(f"lego_kernels.triton_kernels.{op}")._kernel
    signature = {name: "constexpr" if name in constants else _type(name, pointer) for name in kernel.arg_names}
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = compiler.compile(source, target=backends.GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]


def _type(name: str, pointer: str) -> str:
    if name.endswith(INTEGERS):
        return "i32"
    fixed = {"eps": "fp32", "branch": "*i64", "cos": "*fp32", "sin": "*fp32", "factors": "*i64", "segments": "*i64"}
    fixed |= {"codes": "*i8", "scales": "*fp32", "places": "*u8"}
    fixed |= {"active": "*i64", "mask": "*u8", "sigma": "fp32", "next_sigma": "fp32", "dt": "fp32"}
    return fixed.get(name, pointer)
