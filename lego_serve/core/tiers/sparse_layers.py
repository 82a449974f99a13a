"""Chooses the layers that may multiply rows in 2:4: as many as stay within what a model's velocity may lose."""

import math
from collections.abc import Mapping


def choose_sparse(errors: Mapping[str, float], tolerance: float) -> tuple[str, ...]:
    """Return the layers to make sparse, the least sensitive first, given the error that each makes alone.

    Errors of different layers count as independent, so that their squares add up: layers are taken by rising error
    while the sum of squares is at most the square of ``tolerance``, which is the most layers that can be had so.  Of
    equal errors the name that comes first goes first; an error that is no number is none to take.
    """
    left, chosen = tolerance**2, []
    for layer in sorted(errors, key=lambda name: (math.isnan(errors[name]), errors[name], name)):
        left -= errors[layer] ** 2
        if not left >= 0:
            break
        chosen.append(layer)
    return tuple(chosen)


def expected_error(errors: Mapping[str, float], chosen: tuple[str, ...]) -> float:
    """Return what so chosen layers are expected to lose together."""
    return math.sqrt(sum(errors[layer] ** 2 for layer in chosen))
