"""Costs of models."""

import pytest

from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.errors import ConfigError

PROFILE = Profile("m", 2.0, 100, ((1, 1.0), (2, 1.5), (4, 2.0)))


@pytest.mark.parametrize(("batch", "seconds"), [(1, 1.0), (2, 1.5), (3, 1.75), (4, 2.0), (8, 4.0)])
def test_a_pass_is_read_between_and_beyond_the_points(batch: int, seconds: float) -> None:
    """Linear between two points, in proportion beyond the last."""
    assert CostModel([PROFILE]).seconds("m", batch) == pytest.approx(seconds)


def test_loads_and_bytes_add_up() -> None:
    """Models are copied one after the other."""
    costs = CostModel([PROFILE, Profile("n", 0.5, 7, ((1, 1.0),))])
    assert costs.load_s(("m", "n")) == 2.5
    assert costs.size_bytes(("m", "n")) == 107


def test_a_model_without_a_profile_is_named() -> None:
    """The error has its name and the nearest one."""
    with pytest.raises(ConfigError, match=r"mn; did you mean m\?|mn; there is m"):
        CostModel([PROFILE]).seconds("mn", 1)


@pytest.mark.parametrize("points", [(), ((2, 1.0), (1, 1.0)), ((0, 1.0),)])
def test_points_must_grow(points: tuple[tuple[int, float], ...]) -> None:
    """A table without points, or out of order, is refused."""
    with pytest.raises(ValueError, match="batches"):
        Profile("m", 0.0, 0, points)
