"""What replicas ask for, and the machines that there may be: faults that are planted in two overlays are found."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.checks import growth
from deploy.checks.tools import KUBERNETES, overlay

Change = Callable[[Any], object]
OVERLAYS = KUBERNETES / "overlays"


@pytest.fixture
def prod() -> list[Any]:
    """The manifests of prod-ha, to be changed."""
    return copy.deepcopy(list(overlay("prod-ha")))


def cluster(manifests: list[Any]) -> Any:
    """The Ray cluster of a RayService."""
    return next(each for each in manifests if each["kind"] == "RayService")["spec"]["rayClusterConfig"]


def growing(change: Change) -> list[str]:
    """What is wrong with prod-autoscaled after a change of its Ray cluster."""
    manifests: list[Any] = copy.deepcopy(list(overlay("prod-autoscaled")))
    change(cluster(manifests))
    return list(growth.faults(manifests, OVERLAYS / "prod-autoscaled" / "config.yaml"))


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (
            lambda c: c["workerGroupSpecs"][1].update(maxReplicas=4),
            "class-a: replicas ask for up to 8 GPU, and `maxReplicas` leave 4",
        ),
        (
            lambda c: c["workerGroupSpecs"][1].update(labels={"lego-class": "cpu"}),
            "workers: an empty machine of no group has room",
        ),
        (
            lambda c: c["workerGroupSpecs"][1]["rayStartParams"].update({"num-cpus": "1"}),
            "workers: an empty machine of no group has room",
        ),
        (lambda c: c.update(enableInTreeAutoscaling=False), "class-a: without enableInTreeAutoscaling"),
        (lambda c: c["autoscalerOptions"].pop("version"), "of `version: v2` alone"),
        (lambda c: c["workerGroupSpecs"][0].update(maxReplicas=4), "gateway: the autoscaler takes machines without"),
    ],
)
def test_what_could_not_grow_or_would_be_taken_for_idle_is_found(plant: Change, fault: str) -> None:
    """Replicas would wait for machines that never come, or gateways would go."""
    assert growing(lambda c: None) == []
    assert any(fault in each for each in growing(plant))


def test_a_replica_that_reserves_nothing_is_found(tmp_path: Path, prod: list[Any]) -> None:
    """Its machine would be taken for idle."""
    config = tmp_path / "config.yaml"
    text = (OVERLAYS / "prod-ha" / "config.yaml").read_text()
    config.write_text(text.replace("cpus: 1, gpus: 0.2", "cpus: 0, gpus: 0"))
    assert any(each.startswith("sd35-medium.vae: it reserves nothing") for each in growth.faults(prod, config))


def test_replicas_that_may_not_share_machines_need_as_many(prod: list[Any]) -> None:
    """Eight of them, one a machine."""
    config = OVERLAYS / "prod-ha" / "config.yaml"
    assert list(growth.faults(prod, config)) == []
    cluster(prod)["workerGroupSpecs"][1].update(maxReplicas=7)
    assert "sd35-medium.backbone: 8 replicas, 1 a machine, of which there are at most 7" in growth.faults(prod, config)


def test_what_a_budget_bounds_counts_no_more_than_it(tmp_path: Path, prod: list[Any]) -> None:
    """Each node may have more, all together not."""
    text = (OVERLAYS / "prod-ha" / "config.yaml").read_text().replace("min: 2, max: 4", "min: 2, max: 40")
    config, spread = tmp_path / "config.yaml", text.replace("max_per_node: 1, ", "")
    config.write_text(spread)
    assert any("ask for up to" in each for each in growth.faults(prod, config))
    config.write_text(spread.replace("models:", "budget: {gpus: 8}\nmodels:", 1))
    assert list(growth.faults(prod, config)) == []
