"""The elementwise passes of a diffusion transformer over ragged batches, fused: Triton on a GPU, torch elsewhere.

A ragged batch packs the rows of many images into ``x[T, D]``; ``branch[T]`` is the row of the modulation tables that
each of them takes.  Two ops take rows out of latents and put them back with a step; others make rows of whole numbers,
or leave half of each row out.  :mod:`lego_kernels.reference` specifies every op.
"""

from lego_kernels.active_rows import Blend, Stepped, gather_rows, scatter_rows
from lego_kernels.gated_residual import gated_residual
from lego_kernels.int8_rows import int8_rows
from lego_kernels.lora_expand import lora_expand
from lego_kernels.lora_shrink import lora_shrink
from lego_kernels.low_rank import Factors, Segments
from lego_kernels.norm_modulate import norm_modulate
from lego_kernels.qk_norm_rope import qk_norm_rope
from lego_kernels.residual_norm_modulate import residual_norm_modulate
from lego_kernels.sparse24 import sparse24

__all__ = [
    "Blend",
    "Factors",
    "Segments",
    "Stepped",
    "gated_residual",
    "gather_rows",
    "int8_rows",
    "lora_expand",
    "lora_shrink",
    "norm_modulate",
    "qk_norm_rope",
    "residual_norm_modulate",
    "scatter_rows",
    "sparse24",
]
