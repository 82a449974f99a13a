"""What DiFlow's artifact publishes, reproduced: where each of its systems falls below 90 %."""

from lego_serve.sim.policies.diflow import Diflow, DiflowOptions
from lego_serve.sim.policies.lego import Lego
from lego_serve.sim.policies.static import Static
from lego_serve.sim.run import Policy, simulate
from tests.support.cluster.settings import NODES, artifact
from tests.support.cluster.traces import diflow

SETTING = artifact()
HALF = {"A": (0, 1), "B": (2,), "C": (3,)}  # of the artifact's first version
ALL = {"A": (0, 1, 2), "B": (3, 4, 5), "C": (6, 7)}


def attainment(policy: Policy, scale: str) -> float:
    """The share served in time of the artifact's trace at a rate scale."""
    return simulate(SETTING, diflow(SETTING, scale), policy).attainment


def test_static_groups_fall_where_the_artifact_says() -> None:
    """On the four GPUs of its first version between the scales 1 and 2, on all eight between 2 and 4."""
    assert attainment(Static(HALF), "1.0") >= 0.9 > attainment(Static(HALF), "2.0")
    assert attainment(Static(ALL), "3.0") >= 0.9 > attainment(Static(ALL), "4.0")


def test_diflow_falls_at_scale_4_and_its_admission_helps_at_8() -> None:
    """At 4 it serves 90 to 95 %; without admission it collapses beyond saturation."""
    assert 0.9 <= attainment(Diflow(preload=NODES), "4.0") < 0.95
    assert attainment(Diflow(preload=NODES), "6.0") < 0.8
    without = attainment(Diflow(DiflowOptions(admits_all=True), NODES), "8.0")
    assert without < 0.1 < 0.5 < attainment(Diflow(preload=NODES), "8.0")


def test_lego_serves_more_than_each_at_every_scale() -> None:
    """At 4 all, at 6 at least 90 %, at 8 more than a static cluster that drops what is hopeless."""
    assert attainment(Lego(preload=NODES), "4.0") == 1.0
    assert attainment(Lego(preload=NODES), "6.0") >= 0.9
    assert attainment(Lego(preload=NODES), "8.0") > attainment(Static(ALL, drops_hopeless=True), "8.0")
