"""Finds which layers of a model may multiply rows in 2:4, and their residuals: fitted, measured, chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_serve.core.tiers.sparse_layers import choose_sparse, expected_error
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.ragged.linear_kinds.roles import ROLES, role_of
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual
from lego_serve.tuning.lessons import Lessons
from lego_serve.tuning.sparse24.low_rank import Fitted
from lego_serve.tuning.sparse24.measuring import VelocityError, fit_residuals

FITTED_LESSONS = 2  # those after the first, which is measured on
FITTED_STEPS, MEASURED_STEPS = 7, 4  # of a lesson's


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """The rank of residuals, the roles of layers to look at, and the velocity's error that is allowed in all."""

    rank: int
    tolerance: float
    roles: tuple[str, ...] = tuple(ROLES)


@dataclass(frozen=True, slots=True)
class Measured:
    """A layer: its fitted residual, and what the model's velocity loses by it alone."""

    name: str
    fitted: Fitted
    error: float


@dataclass(frozen=True, slots=True)
class Found:
    """The layers that were looked at and those that are sparse; the error expected of these together, and found."""

    layers: tuple[Measured, ...]
    sparse: tuple[str, ...]
    expected: float
    error: float

    @property
    def residuals(self) -> dict[str, Residual]:
        """The residuals of the layers that are sparse, by name."""
        return {each.name: each.fitted.residual for each in self.layers if each.name in self.sparse}


def search(backbone: Backbone, lessons: Lessons, plan: SearchPlan) -> Found:
    """Fit residuals on some lessons, measure each layer alone on another, and choose.  Raises LegoError."""
    held_out, *learned = lessons.first(1 + FITTED_LESSONS)
    names = [name for name in block_layers(vars(backbone)) if role_of(name) in plan.roles]
    fitted = dict(fit_residuals(backbone, learned, names, plan.rank, spread(lessons.steps, FITTED_STEPS)))
    velocity = VelocityError(backbone, held_out, spread(lessons.steps, MEASURED_STEPS))
    layers = tuple(Measured(name, fitted[name], velocity.of({name: fitted[name].residual})) for name in names)
    errors = {each.name: each.error for each in layers}
    sparse = choose_sparse(errors, plan.tolerance)
    together = velocity.of({name: fitted[name].residual for name in sparse})
    return Found(layers, sparse, expected_error(errors, sparse), together)


def velocity_error(backbone: Backbone, lessons: Lessons, residuals: Mapping[str, Residual]) -> float:
    """Return what the velocity loses by layers with these residuals, on the lesson that the search measured on."""
    return VelocityError(backbone, lessons.first(1)[0], spread(lessons.steps, MEASURED_STEPS)).of(residuals)


def spread(steps: int, count: int) -> Sequence[int]:
    """Return about so many of the steps, evenly spread from the first."""
    return range(0, steps, max(1, steps // count))
