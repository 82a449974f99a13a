"""The norms of queries and keys and their rotary embedding in one pass."""

import torch

from lego_kernels.checks import check_float, check_tensor

CPU_ROWS = 256  # at a time: the float32 intermediates of more rows do not fit into a core's cache


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    *,
    eps: float,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return qkv with q and k RMS-normed where they have a weight, then rotated where there are angles; v as it is.

    Takes qkv (T, 3, heads, head width), weights (head width,) of its dtype, cos and sin (T, head width) of
    float32, each angle standing twice in a row as FLUX has it; returns qkv's shape.  The mean is taken in
    float32 and the normed value rounded to the dtype before the weight, as diffusers does.  Without weights
    and angles the result is qkv itself, otherwise a new tensor.

    Raises ValueError, naming the argument and the shapes, where a rank, shape, dtype or device does not fit,
    where only one of cos and sin is given, or where an odd head width is to be rotated.
    """
    _check(qkv, q_weight, k_weight, cos, sin)
    if q_weight is None and k_weight is None and cos is None:
        return qkv
    if qkv.is_cuda:
        from lego_kernels.triton_kernels.qk_norm_rope import qk_norm_rope_triton

        return qk_norm_rope_triton(qkv, q_weight, k_weight, eps=eps, cos=cos, sin=sin)
    if len(qkv) <= CPU_ROWS:
        return _norm_and_rotate(qkv, q_weight, k_weight, eps, cos, sin)
    out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    for start in range(0, len(qkv), CPU_ROWS):
        rows = slice(start, start + CPU_ROWS)
        row_cos, row_sin = (None, None) if cos is None or sin is None else (cos[rows], sin[rows])
        out[rows] = _norm_and_rotate(qkv[rows], q_weight, k_weight, eps, row_cos, row_sin)
    return out


def _norm_and_rotate(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> torch.Tensor:
    qk = _norm(qkv[:, :2], q_weight, k_weight, eps)
    if cos is not None and sin is not None:
        qk = _rotate(qk, cos, sin)
    return torch.cat([qk, qkv[:, 2:]], dim=1)


def _check(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> None:
    if qkv.ndim != 4 or qkv.shape[1] != 3 or not qkv.shape[2] * qkv.shape[3]:
        raise ValueError(f"qkv has shape {list(qkv.shape)}, must be [T, 3, heads, head width]")
    check_float("qkv", qkv)
    tokens, width = qkv.shape[0], qkv.shape[3]
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight is not None:
            check_tensor(name, weight, (width,), qkv.dtype, qkv.device)
    if (cos is None) != (sin is None):
        raise ValueError(f"{'cos' if cos is None else 'sin'} is missing: angles take both")
    if cos is not None and sin is not None:
        if width % 2:
            raise ValueError(f"qkv has shape {list(qkv.shape)}: a head width to be rotated must be even")
        check_tensor("cos", cos, (tokens, width), torch.float32, qkv.device)
        check_tensor("sin", sin, (tokens, width), torch.float32, qkv.device)


def _norm(qk: torch.Tensor, q_weight: torch.Tensor | None, k_weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Norm q and k, in one product where both have a weight: calls are most of the time of a small step."""
    if q_weight is None and k_weight is None:
        return qk
    if q_weight is not None and k_weight is not None:
        return _rms_norm(qk, torch.stack([q_weight, k_weight])[:, None], eps)
    parts = zip(qk.unbind(1), (q_weight, k_weight), strict=True)
    return torch.stack([x if weight is None else _rms_norm(x, weight, eps) for x, weight in parts], dim=1)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype).mul_(weight)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (T, 2, heads, head width): the reference's bits without its rotated copy, which took most of the time."""
    wide = x.float()
    cos, sin = cos[:, None, None], sin[:, None, None]
    out = wide * cos
    real, imaginary = wide.unflatten(-1, (-1, 2)).unbind(-1)
    sin_real, sin_imaginary = sin.unflatten(-1, (-1, 2)).unbind(-1)
    out[..., 0::2] -= imaginary * sin_real
    out[..., 1::2] += real * sin_imaginary
    return out.to(x.dtype)
