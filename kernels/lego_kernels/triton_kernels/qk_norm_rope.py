"""The kernel of qk_norm_rope: qkv is read once and written once, a few heads of q, of k or of v a program.

Per token it moves 6 * heads * head width values, and 2 * head width angles.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, power_of_two, unit_columns, warps_of

TILE = 1024  # values a program: 24 heads of 128 are three programs of eight, none of them half empty


@triton.jit
def _norm(
    values: tl.tensor, weight: tl.tensor, columns: tl.tensor, within: tl.tensor, width: tl.tensor, eps: tl.tensor
) -> tl.tensor:
    """Norm each head, rounding to the dtype before and after the weight as the reference does."""
    dtype = weight.dtype.element_ty
    factor = tl.rsqrt(tl.sum(values * values, axis=1, keep_dims=True) / width + eps)
    gain = tl.load(weight + columns, mask=within, other=0.0).to(tl.float32)
    normed = (values * factor).to(dtype).to(tl.float32)
    return (normed * gain).to(dtype).to(tl.float32)


@triton.jit
def _rotate(
    values: tl.tensor, cos: tl.tensor, sin: tl.tensor, columns: tl.tensor, within: tl.tensor,
    block_heads: tl.constexpr, block: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rotate each pair of neighbours by its angle; a pair lies in one thread, so no values are exchanged."""
    real, imaginary = tl.split(tl.reshape(values, (block_heads, block // 2, 2)))
    swapped = tl.reshape(tl.join(-imaginary, real), (block_heads, block))
    cosine = tl.load(cos + columns, mask=within, other=0.0)
    sine = tl.load(sin + columns, mask=within, other=0.0)
    return values * cosine + swapped * sine


@triton.jit
def _kernel(
    qkv: tl.tensor, q_weight: tl.tensor, k_weight: tl.tensor, cos: tl.tensor, sin: tl.tensor, out: tl.tensor,
    token_stride: tl.tensor, part_stride: tl.tensor, head_stride: tl.tensor,
    heads: tl.tensor, width: tl.tensor, eps: tl.tensor, block_heads: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    token = tl.program_id(0).to(tl.int64)  # offsets may pass 2**31
    part = tl.program_id(1)
    head = tl.program_id(2) * block_heads + tl.arange(0, block_heads)[:, None]
    columns = tl.arange(0, block)[None, :]
    within = columns < width
    inside = (head < heads) & within
    source = qkv + token * token_stride + part * part_stride + head * head_stride
    values = tl.load(source + columns, mask=inside, other=0.0).to(tl.float32)
    # An argument that is None leaves its branch out of the compiled kernel.
    if q_weight is not None and part == 0:
        values = _norm(values, q_weight, columns, within, width, eps)
    if k_weight is not None and part == 1:
        values = _norm(values, k_weight, columns, within, width, eps)
    if cos is not None and part < 2:
        start = token * width
        values = _rotate(values, cos + start, sin + start, columns, within, block_heads, block)
    tl.store(out + ((token * 3 + part) * heads + head) * width + columns, values, mask=inside)


def qk_norm_rope_triton(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    *,
    eps: float,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Launch the kernel on arguments that qk_norm_rope has checked.  Raises ValueError where a head is too wide."""
    tokens, _, heads, width = qkv.shape
    block = block_of("qkv", width)
    block_heads = min(power_of_two(heads), max(TILE // block, 1))
    out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    if not tokens:
        return out
    qkv = unit_columns(qkv)
    q_weight, k_weight, cos, sin = (t if t is None else t.contiguous() for t in (q_weight, k_weight, cos, sin))
    with device_of(qkv):
        _kernel[(tokens, 3, triton.cdiv(heads, block_heads))](
            qkv, q_weight, k_weight, cos, sin, out, *qkv.stride()[:3], heads, width, eps,
            block_heads, block, num_warps=warps_of(block_heads * block),
        )  # fmt: skip
    return out
