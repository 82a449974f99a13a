"""The residual of a layer in 2:4 in closed form: of a rank, the one that makes up for most of what is dropped.

For rows X (rows, inputs) of a layer with weight W, let E = (X - s X~) W^T be the error of its product.  Wanted are A
(inputs, r) and B (r, outputs) with the least |E - X A B|^2 + e |A B|^2: reduced-rank regression (Izenman, 1975).  With
G = X^T X + e I = L L^T (Cholesky), C = G^-1 X^T E, which is the optimum of full rank, and the singular values of

    L^T C = L^-1 X^T E = U S V^T,

the optimum of rank r keeps the r largest of them: A B = L^-T U_r S_r V_r^T.  It is C truncated in the metric of G, in
which a direction counts as much as rows have in it.  A's columns and B's rows get the same norms, so that both learn at
a like pace.  Rows of a few images lie close together, and without e the fit would be to these alone: it is the one of
several with which a fit to some rows leaves least of others'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lego_kernels.sparse24 import sparse24_rows
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, norm_scale

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e9)  # e over the mean square of an input; the last leaves nothing


@dataclass(slots=True)
class Moments:
    """The second moments of a layer's rows, summed in fp64.

    ``gram`` is X^T X (inputs, inputs), ``cross`` X^T E (inputs, outputs), ``error`` |E|^2 and ``product`` |X W^T|^2.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    rows: int = 0
    error: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Moments":
        """Return those of no rows of a layer with a weight (outputs, inputs)."""
        outputs, inputs = weight.shape
        gram, cross = (torch.zeros(inputs, n, dtype=torch.float64, device=weight.device) for n in (inputs, outputs))
        return cls(gram, cross)

    def add(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        """Add rows x (rows, inputs)."""
        kept = sparse24_rows(x)
        dropped = x.float() - norm_scale(x, kept, LinearOps(batch_invariant=False)) * kept.float()
        error = F.linear(dropped, weight.float()).double()
        wide = x.double()
        self.gram += wide.T @ wide
        self.cross += wide.T @ error
        self.rows += len(x)
        self.error += float(error.square().sum())
        self.product += float(F.linear(x.float(), weight.float()).double().square().sum())

    def with_others(self, other: "Moments") -> "Moments":
        """Return those of its rows and another's together."""
        return Moments(
            self.gram + other.gram,
            self.cross + other.cross,
            self.rows + other.rows,
            self.error + other.error,
            self.product + other.product,
        )

    def left(self, residual: Residual) -> float:
        """Return what a residual leaves of the error, over the product's size: |E - X A B| / |X W^T|."""
        a, b = residual.a.double(), residual.b.double()
        gained = 2 * (a.T @ self.cross * b).sum() - (a.T @ self.gram @ a * (b @ b.T)).sum()
        return float((max(self.error - float(gained), 0.0) / max(self.product, 1e-300)) ** 0.5)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A residual, and the error of the layer's product over the product's size, without and with it.

    Errors are those of rows that it was not fitted to at first.
    """

    residual: Residual
    without: float
    error: float


def fit(some: Moments, others: Moments, rank: int, ridges: Sequence[float] = RIDGES) -> Fitted:
    """Return the residual of at most this rank for all rows, with the ridge that serves others' rows best."""
    errors = {ridge: others.left(fitted(some, rank, ridge)) for ridge in ridges}
    best = min(errors, key=lambda ridge: errors[ridge])
    without = (others.error / max(others.product, 1e-300)) ** 0.5
    return Fitted(fitted(some.with_others(others), rank, best), without, errors[best])


def fitted(moments: Moments, rank: int, ridge: float) -> Residual:
    """Return the residual of at most this rank, given the moments of rows, and e over the mean square of an input."""
    rows = max(moments.rows, 1)
    gram, cross = moments.gram / rows, moments.cross / rows
    added = ridge * float(gram.diagonal().mean()) + 1e-15
    lower = torch.linalg.cholesky(gram + added * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    u, sizes, v = torch.linalg.svd(torch.linalg.solve_triangular(lower, cross, upper=False), full_matrices=False)
    a = torch.linalg.solve_triangular(lower.T, u[:, :rank], upper=True)
    b = sizes[:rank, None] * v[:rank]
    even = (b.norm(dim=1) / a.norm(dim=0).clamp_min(1e-300)).sqrt().clamp_min(1e-150)
    return Residual((a * even).float().contiguous(), (b / even[:, None]).float().contiguous())
