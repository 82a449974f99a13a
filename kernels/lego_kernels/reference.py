"""The specification: every op in plain torch, and the error of an implementation against it.

In float64 a reference is exact enough to judge all other dtypes by; in each other dtype it rounds where the
implementation on a CPU rounds.  Those that return whole numbers say in which dtype these are found.
"""

import torch
from torch.nn import functional as F

from lego_kernels.active_rows import Blend, Stepped, difference
from lego_kernels.low_rank import Factors, Segments

Result = torch.Tensor | tuple[torch.Tensor, ...]


def norm_modulate(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, branch: torch.Tensor, *, eps: float = 1e-6
) -> torch.Tensor:
    """``layer_norm(x) * (1 + scale[branch]) + shift[branch]``, the norm without weights of its own."""
    return torch.addcmul(shift[branch], F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale[branch])


def gated_residual(x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """``x + gate[branch] * update``."""
    return torch.addcmul(x, gate[branch], update)


def residual_norm_modulate(
    x: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    branch: torch.Tensor,
    *,
    eps: float = 1e-6,
) -> torch.Tensor:
    """``gated_residual`` and, of its result as rounded, ``norm_modulate``, stacked."""
    total = gated_residual(x, update, gate, branch)
    return torch.stack([total, norm_modulate(total, shift, scale, branch, eps=eps)])


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    *,
    eps: float,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> torch.Tensor:
    """q and k normed where they have a weight, then rotated where there are angles; v as it is."""
    q, k, v = qkv.unbind(1)  # each (T, heads, head width)
    q, k = (x if weight is None else _rms_norm(x, weight, eps) for x, weight in ((q, q_weight), (k, k_weight)))
    if cos is not None and sin is not None:
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    return torch.stack([q, k, v], dim=1)


def lora_shrink(x: torch.Tensor, down: Factors, segments: Segments) -> torch.Tensor:
    """``x[row] @ down[which].T`` in the rows of each segment, zero elsewhere."""
    hidden = x.new_zeros(x.shape[0], down.hidden)
    for start, stop, which in segments.rows:
        hidden[start:stop, : down.ranks[which]] = x[start:stop] @ down.weights[which].to(x.dtype).T
    return hidden


def lora_expand(out: torch.Tensor, hidden: torch.Tensor, up: Factors, segments: Segments) -> torch.Tensor:
    """``out[row] + hidden[row, column : column + rank] @ up[which].T`` in the rows of each segment, a new tensor."""
    total = out.clone()
    for start, stop, which in segments.rows:
        values = hidden[start:stop, up.columns[which] : up.columns[which] + up.ranks[which]]
        total[start:stop] += values @ up.weights[which].to(out.dtype).T
    return total


def int8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x / scale`` as whole numbers, ``scale`` the largest of a row / 127; in float32 whatever the dtype of x."""
    largest = x.float().abs().amax(dim=1).clamp_min(1e-12)
    scales = largest / 127
    ratios = x.float() / scales[:, None]
    return torch.where(ratios.isnan(), 0, ratios).round().to(torch.int8), scales


def sparse24(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two of every four numbers, by counting for each how many are larger; where they stood, two groups a byte."""
    groups = x.unflatten(1, (-1, 4))
    magnitudes = groups.float().abs().nan_to_num(nan=2.0**128, posinf=2.0**127).double()
    mine, other = magnitudes[..., :, None], magnitudes[..., None, :]
    stands_before = torch.ones(4, 4, dtype=torch.bool, device=x.device).tril(-1)  # [mine, other]
    is_larger = (other > mine) | (other == mine) & stands_before
    places = torch.nonzero(is_larger.sum(dim=-1) < 2)[:, 2].view(*groups.shape[:2], 2)
    halves = F.pad(places[..., 0] + 4 * places[..., 1], (0, groups.shape[1] % 2))
    return groups.gather(-1, places).flatten(1), (halves[:, 0::2] + 16 * halves[:, 1::2]).to(torch.uint8)


def gather_rows(latents: torch.Tensor, active: torch.Tensor | None, *, patch: int, dtype: torch.dtype) -> torch.Tensor:
    """The pixels of each active token, a row of a dtype."""
    rows = F.pixel_unshuffle(latents, patch).flatten(1).T
    return rows[slice(None) if active is None else active].to(dtype)


def place_rows(
    rows: torch.Tensor,
    active: torch.Tensor | None,
    like: torch.Tensor,
    *,
    patch: int,
    channels_last: bool,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rows of active tokens as pixels, ``kept`` or zeros elsewhere."""
    channels, height, width = like.shape
    if channels_last:
        rows = rows.unflatten(1, (patch**2, channels)).transpose(1, 2).flatten(1)
    whole = F.pixel_unshuffle(torch.zeros_like(like) if kept is None else kept, patch).flatten(1).T.clone()
    whole[slice(None) if active is None else active] = rows
    return F.pixel_shuffle(whole.T.unflatten(1, (height // patch, width // patch)), patch)


def scatter_rows(
    latents: torch.Tensor,
    rows: torch.Tensor,
    active: torch.Tensor | None,
    *,
    patch: int,
    channels_last: bool,
    sigmas: tuple[float, float],
    kept: torch.Tensor | None = None,
    blend: Blend | None = None,
) -> Stepped:
    """``x + (s' - s) v`` and ``x - s v`` with the rows put back as ``v``; an image, noised or not, outside a mask."""
    velocity = place_rows(rows, active, latents, patch=patch, channels_last=channels_last, kept=kept)
    stepped = latents + difference(sigmas) * velocity
    predicted = torch.sub(latents, velocity, alpha=sigmas[0])
    if blend is not None:
        stepped = torch.where(blend.mask, stepped, sigmas[1] * blend.noise + (1.0 - sigmas[1]) * blend.image)
        predicted = torch.where(blend.mask, predicted, 0.0 * blend.noise + 1.0 * blend.image)
    return Stepped(stepped, predicted, velocity)


def ulps(actual: Result, exact: Result) -> float:
    """Return the largest error in units of the last place of ``max(1, |exact|)``, in the dtype of the result.

    The terms that these ops add are of order one, so an error relative to a sum that happens to cancel says nothing.
    Whole numbers are right or infinitely wrong.  Of several results the worst counts.
    """
    if isinstance(actual, tuple) or isinstance(exact, tuple):
        return max(ulps(*parts) for parts in zip(parts_of(actual), parts_of(exact), strict=True))
    if actual.shape != exact.shape:
        return torch.inf
    if not actual.numel():
        return 0.0
    if not exact.is_floating_point():
        return 0.0 if torch.equal(actual, exact) else torch.inf
    error = (actual.double() - exact.double()).abs() / exact.double().abs().clamp(min=1)
    return float(error.max()) / torch.finfo(actual.dtype).eps


def parts_of(result: Result) -> tuple[torch.Tensor, ...]:
    """Return the tensors that an op returned."""
    return result if isinstance(result, tuple) else (result,)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    scale = torch.rsqrt(_wide(x).square().mean(-1, keepdim=True) + eps)
    return (x * scale).to(x.dtype) * weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair of neighbours by its angle: diffusers' ``apply_rotary_emb`` as FLUX calls it."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    return (_wide(x) * cos[:, None] + _wide(rotated) * sin[:, None]).to(x.dtype)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
