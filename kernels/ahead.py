"""What the kernels take of a GPU that is not here: ``python kernels/ahead.py`` compiles them for Hopper (sm_90).

Triton compiles without a GPU; its assembler then says how many registers a thread has, whether any are spilled to
memory, and how much shared memory a program takes.  The shapes are those of SD3.5 medium and FLUX.1 in bf16.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lego_kernels.launching import block_of, warps_of

CAPABILITY, LANES = 90, 32
REGISTERS, WARPS, PROGRAMS = 65_536, 64, 32  # of a streaming multiprocessor of Hopper, at the most
TYPES = {"eps": "fp32", "branch": "*i64", "cos": "*fp32", "sin": "*fp32", "factors": "*i64", "segments": "*i64"}
TYPES |= {"codes": "*i8", "scales": "*fp32", "places": "*u8", "active": "*i64", "mask": "*u8"}
LATENTS = ("latents", "velocity", "kept", "image", "noise", "stepped_out", "predicted_out", "velocity_out")
TYPES |= dict.fromkeys(LATENTS, "*fp32") | dict.fromkeys(("sigma", "next_sigma", "dt"), "fp32")
SIZES = ("_stride", "width", "height", "channels", "heads", "count")
COLUMNS = "| kernel | of | warps | registers a thread | spilled bytes | shared bytes | warps resident |"


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel at a shape: its constants, and the warps it is launched with."""

    op: str
    shape: str
    constants: dict[str, Any]
    warps: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes: registers of a thread, bytes spilled by it, shared bytes of a program."""

    registers: int
    spilled: int
    shared: int

    def resident_warps(self, warps: int) -> int:
        """Return the warps that fit a multiprocessor at once, in whole programs, as registers and warps bound them."""
        each = -(-self.registers // 8) * 8 * LANES  # allocated in eights a thread
        programs = min(REGISTERS // (each * warps), WARPS // warps, PROGRAMS)
        return programs * warps


def cases() -> Iterator[Case]:
    """Yield every kernel at the shapes it is launched with."""
    for model, width, head in (("SD3.5 medium", 1536, 64), ("FLUX.1", 3072, 128)):
        block = block_of("x", width)
        for op in ("norm_modulate", "gated_residual", "residual_norm_modulate", "int8_rows", "sparse24"):
            yield Case(op, f"{model}, width {width}", {"block": block}, warps_of(block))
        heads = 8
        yield Case(
            "qk_norm_rope", f"{model}, heads of {head}", {"block_heads": heads, "block": head}, warps_of(heads * head)
        )
        shrink = {"block_rows": 32, "block_columns": 64, "block_ranks": 16, "tiles": -(-width // 64)}
        yield Case("lora_shrink", f"{model}, width {width}, rank 16", shrink, 4)
        gather = {"patch": 2, "block_rows": 16, "block": 64}
        yield Case("gather_rows", f"{model}, 16 channels of latents", gather, 2)
        scatter = {"patch": 2, "channels_last": model != "FLUX.1", "halvings": 12, "block_channels": 16, "block": 64}
        yield Case("scatter_rows", f"{model}, 16 channels of latents", scatter, 2)
        expand = {"block_rows": 32, "block_columns": 64, "block_ranks": 16, "tiles": 1}
        yield Case("lora_expand", f"{model}, width {width}, rank 16", expand, 4)


def compile_ahead(case: Case, pointer: str = "*bf16") -> Resources:
    """Compile a kernel for Hopper and return what it takes.  Raises OSError where Triton has no assembler."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = import_module(f"lego_kernels.triton_kernels.{case.op}")._kernel
    signature = {name: "constexpr" if name in case.constants else _type(name, pointer) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=case.constants)
    compiled = compile(source, target=GPUTarget("cuda", CAPABILITY, LANES), options={"num_warps": case.warps})
    said = _assemble(compiled.asm["ptx"])
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    if registers is None or spilled is None:
        raise OSError(f"the assembler says nothing of registers: {said}")
    return Resources(int(registers[1]), int(spilled[1]), int(compiled.metadata.shared))


def _type(name: str, pointer: str) -> str:
    if name.endswith(SIZES):
        return "i32"
    return TYPES.get(name, pointer)


def _assemble(ptx: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "kernel.ptx"
        file.write_text(ptx)
        command = [folder / "ptxas", "-v", f"--gpu-name=sm_{CAPABILITY}a", file, "-o", Path(place) / "kernel.cubin"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def main() -> None:
    """Print the table."""
    sys.stdout.write(f"{COLUMNS}\n{'|---' * 7}|\n")
    for case in cases():
        found = compile_ahead(case)
        resident = found.resident_warps(case.warps)
        cells = (case.warps, found.registers, found.spilled, found.shared, f"{resident} of {WARPS}")
        sys.stdout.write(f"| `{case.op}` | {case.shape} | " + " | ".join(map(str, cells)) + " |\n")


if __name__ == "__main__":
    main()
