"""Where shared nodes run, as a configuration says."""

from pathlib import Path

import pytest

from lego_serve.config import load
from lego_serve.core.scheduling.autoscaling import ReplicaShare
from lego_serve.deployment import needed_nodes, scaled_apps
from lego_serve.errors import ConfigError
from lego_serve.planning.node_plans import node_plans
from lego_serve.served_workflows import configured
from lego_serve.serving.nodes.options import NodePlace, WorkerOptions


def test_shared_nodes_are_on_the_workers_and_have_no_deployment_of_their_own(tmp_path: Path) -> None:
    """Their calls go to the workers' application with their name; what is dedicated stays as it was."""
    path = tmp_path / "config.yaml"
    shared = "{backbone: {placement: shared}, vae: {placement: shared}}"
    path.write_text(
        f"models: {{lego-tiny: {{path: 'builtin:lego-tiny', nodes: {shared}}}}}\n"
        "workers: {replicas: {min: 2, max: 3}, max_bytes: 7, cpus: 0.25}\n"
    )
    settings, workflows = configured(path)
    places = needed_nodes(settings, workflows)
    assert places["lego-tiny", "backbone"] == NodePlace("shared.workers", "lego-tiny.backbone")
    assert places["lego-tiny", "text_encoder"] == NodePlace("lego-tiny.text_encoder")
    plans = {plan.app: plan for plan in node_plans(settings, workflows, tmp_path)}
    assert sorted(plans) == ["lego-tiny.text_encoder", "shared.workers"]
    workers = plans["shared.workers"]
    assert isinstance(workers.options, WorkerOptions)
    assert sorted(node.name for node in workers.options.nodes) == ["lego-tiny.backbone", "lego-tiny.vae"]
    assert (workers.replicas.min, workers.replicas.max, workers.cpus, workers.options.max_bytes) == (2, 3, 0.25, 7)
    own = ("lego-tiny", "text_encoder"), "lego-tiny.text_encoder"
    assert scaled_apps(places) == dict([own, (("shared", "workers"), "shared.workers")])  # they scale as one


@pytest.mark.parametrize(
    ("device", "key", "host_bytes"),
    [
        ("cpu", "", 0),
        ("cpu", ", host_bytes: 5", 0),
        ("cuda", "", 7),
        ("cuda", ", host_bytes: 5", 5),
        ("cuda", ", host_bytes: 0", 0),
    ],
)
def test_what_is_evicted_from_a_gpu_has_as_many_bytes_of_host_memory_as_the_worker_has_there(
    tmp_path: Path, device: str, key: str, host_bytes: int
) -> None:
    """Or as many as it is given; on the CPU it has left the host's memory, and nothing is kept."""
    path = tmp_path / "config.yaml"
    model = f"{{path: 'builtin:lego-tiny', device: {device}, nodes: {{vae: {{placement: shared}}}}}}"
    path.write_text(f"models: {{lego-tiny: {model}}}\nworkers: {{max_bytes: 7{key}}}\n")
    plans = {plan.app: plan for plan in node_plans(*configured(path), tmp_path)}
    options = plans["shared.workers"].options
    assert isinstance(options, WorkerOptions)
    assert options.host_bytes == host_bytes


def test_shared_nodes_of_two_devices_are_refused(tmp_path: Path) -> None:
    """A worker computes on one."""
    path = tmp_path / "config.yaml"
    nodes = "nodes: {backbone: {placement: shared}}"
    models = f"a: {{path: /a, device: cpu, {nodes}}}, b: {{path: /b, device: cuda, {nodes}}}"
    path.write_text(f"models: {{{models}}}\n")
    with pytest.raises(ConfigError, match="one device: a on cpu, b on cuda"):
        load(path)


BUDGETED = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    nodes: {{backbone: {{gpus: 1, replicas: {{min: 2, max: 9}}}}}}
workflows: [lego-tiny]
budget: {{gpus: {gpus}, cpus: {cpus}}}
"""


def test_replicas_take_gpus_or_else_processors_of_the_budget(tmp_path: Path) -> None:
    """Each deployment says what a replica of it takes, and of what."""
    path = tmp_path / "config.yaml"
    path.write_text(BUDGETED.format(gpus=4, cpus=1))
    plans = {plan.component: plan.share for plan in node_plans(*configured(path), tmp_path)}
    assert plans["backbone"] == ReplicaShare("gpus", 1.0, 4.0)
    assert plans["vae"] == ReplicaShare("cpus", 0.5, 1.0)


@pytest.mark.parametrize(
    ("gpus", "cpus", "told"),
    [
        (1.5, 1, r"`budget.gpus`: the fewest replicas take 2 and it is 1.5 \(lego-tiny.backbone 2\)"),
        (2, 0.9, r"`budget.cpus`: .* take 1 and it is 0.9 \(lego-tiny.text_encoder 0.5, lego-tiny.vae 0.5\)"),
    ],
)
def test_a_budget_below_the_fewest_replicas_is_refused_with_the_numbers(
    tmp_path: Path, gpus: float, cpus: float, told: str
) -> None:
    """Before anything is deployed."""
    path = tmp_path / "config.yaml"
    path.write_text(BUDGETED.format(gpus=gpus, cpus=cpus))
    with pytest.raises(ConfigError, match=told):
        node_plans(*configured(path), tmp_path)
