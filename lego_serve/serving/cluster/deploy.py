"""Starts or joins Ray and deploys the model nodes, each an application of its own without a route."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import ApplicationStatus

from lego_serve.core.placement.replica_scaler import FULL, WORKER_FULL
from lego_serve.core.placement.room import Ask, ClusterRoom
from lego_serve.errors import CheckpointError, ConfigError, LegoError, NodeError
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.serving.cluster.autoscaler import autoscaling_config
from lego_serve.serving.cluster.connect import NAMESPACE
from lego_serve.serving.cluster.ray_dispatcher import end_dispatchers
from lego_serve.serving.cluster.ray_internals import (
    NO_RAY,
    cluster_room,
    log_like_this_process,
    name_ports_of_agents,
    wait_for_a_slow_raylet,
)
from lego_serve.serving.cluster.replica import NodeReplica
from lego_serve.serving.cluster.scale_records import forget
from lego_serve.serving.cluster.worker import WorkerReplica
from lego_serve.serving.nodes.options import NodePlan, WorkerOptions

LISTENER_S = 10.0
OBJECT_STORE_BYTES = 256 * 2**20
MAX_ONGOING = 1024
ROUTER = "lego_serve.serving.cluster.router:LegoRequestRouter"
STATUS_PAUSE_S = 0.2
CONTROL_LOOP_S = "0.5"  # Serve's own 0.1 keeps a core busy that the models need
STATS_PERIOD_S = 2.0  # how often replicas are asked which templates they have
# Serve replaces a replica that has failed three times in a row: some 20 s after it stopped.  Calls have long gone
# elsewhere by then, and a replica that was only slow for as long as the machine was busy is not worth a restart.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2, 5
PATIENCE_S = 60.0
# Serve says "to be scheduled" (30 s after a replica was to be placed) of one for which there is no room, and of one
# whose process is still starting: Python, Ray and torch are some 10 s of processor time each, and six replicas on two
# busy processors were seen to take more than a minute.  Where there is room for all, it can only be the second.
ROOMY_PATIENCE_S = 300.0
# Where an autoscaler adds nodes: as long as gateways wait at their start for a machine, its image and the models.
GROWING_PATIENCE_S = 1800.0
UNPLACED = "to be scheduled"
RAY_DID_NOT_START = "ray_did_not_start"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without progress: where Ray is too small for all nodes, where it is not, and where it may still grow."""

    crowded_s: float = PATIENCE_S
    roomy_s: float = ROOMY_PATIENCE_S
    growing_s: float = GROWING_PATIENCE_S


def start_ray(address: str | None, cpus: int, folder: Path) -> str:
    """Start a private Ray that keeps its files in a folder of a short path, or join one; answers its address.

    Raises ConfigError where none is to be joined, NodeError with the code RAY_DID_NOT_START where its own processes
    took too long: what is left of these is then the caller's to end.
    """
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} | THREAD_ENVIRONMENT)
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", CONTROL_LOOP_S)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that signals are ours, which they are
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "error"}
    if address is None:
        name_ports_of_agents()
        wait_for_a_slow_raylet()
        options |= {
            "address": "local",
            "_temp_dir": str(folder),
            "include_dashboard": False,
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        require_listener(address)
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # what Ray raises where its own processes took too long to start has no class of its own
        if address is not None and isinstance(error, NO_RAY):
            message = f"`server.ray_address`: no Ray answers at {address} ({type(error).__name__})"
            raise ConfigError(message) from None
        raise NodeError(f"Ray did not start: {error}", code=RAY_DID_NOT_START) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"})
    log_like_this_process()
    gcs_address: str = ray.get_runtime_context().gcs_address
    return gcs_address


def require_listener(address: str) -> None:
    """Raise ConfigError where nobody listens at HOST:PORT: Ray itself would try again for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # `auto`, or a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENER_S).close()
    except OSError as error:
        message = f"`server.ray_address`: no Ray answers at {address} ({error.strerror or type(error).__name__})"
        raise ConfigError(message) from None


def deploy(plans: Sequence[NodePlan], launcher: str | None = None) -> None:
    """Have Serve start all nodes at once.  ``launcher`` starts Python processes in place of ``python``."""
    forget([plan.app for plan in plans])
    end_dispatchers([plan.app for plan in plans])
    targets = [serve.RunTarget(application(plan, launcher), name=plan.app, route_prefix=None) for plan in plans]
    serve.run_many(targets, wait_for_applications_running=False)


def wait_until_up(
    plans: Sequence[NodePlan],
    ready: Callable[[NodePlan], None],
    check: Callable[[], None] = lambda: None,
    patience: Patience = Patience(),
) -> None:
    """Wait until all nodes run; ``ready`` is told of each as it comes up, ``check`` is called all the while.

    Raises CheckpointError or NodeError; also when nothing came up for as long as ``patience`` says while a node has no
    place.
    """
    waiting = list(plans)
    progress = time.monotonic()
    while waiting:
        check()
        applications = serve.status().applications
        for plan in list(waiting):
            application = applications.get(plan.app)
            if application is None:
                continue
            words = " ".join(d.message for d in application.deployments.values()) + application.message
            if application.status == ApplicationStatus.RUNNING:
                waiting.remove(plan)
                progress = time.monotonic()
                ready(plan)
            elif application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise _failure(plan, words)
            elif UNPLACED in words and (stalled_s := time.monotonic() - progress) > patience.crowded_s:
                _require_place(plan, plans, stalled_s, patience)
        time.sleep(STATUS_PAUSE_S)


def _require_place(plan: NodePlan, plans: Sequence[NodePlan], stalled_s: float, patience: Patience) -> None:
    """Raise NodeError where a node has had no place for so long that none is to be expected."""
    room, there_is, ask = _room(), ray.cluster_resources(), Ask.of(_amounts(plan), plan.placement.labels)
    if room.is_growing and not room.waiting(ask):
        limit_s = patience.roomy_s  # it has its node
    elif room.may_come(ask):
        limit_s = patience.growing_s
    else:
        limit_s = patience.roomy_s if _fit(plans, there_is) else patience.crowded_s
    if stalled_s > limit_s:
        grows = "; its autoscaler has added no Ray node for it" if room.may_come(ask) else ""
        raise NodeError(f"{plan.app} finds no place: {_wants(plan, there_is)}{grows}")


def _room() -> ClusterRoom:
    """What Ray knows of replicas without a node; nothing where it does not answer, which others find out."""
    try:
        return cluster_room()
    except NO_RAY:
        return ClusterRoom()


def _fit(plans: Sequence[NodePlan], there_is: Mapping[str, float]) -> bool:
    """Whether all of Ray has what the nodes ask for together."""
    cpus = sum(plan.replicas.min * plan.cpus for plan in plans)
    gpus = sum(plan.replicas.min * plan.gpus for plan in plans)
    return cpus <= there_is.get("CPU", 0) and gpus <= there_is.get("GPU", 0)


def _wants(plan: NodePlan, there_is: Mapping[str, float]) -> str:
    """What a node asks for, and what all of Ray has."""
    asked = _amounts(plan)
    wanted = " and ".join(f"{value:g} {name}" for name, value in asked.items() if value)
    has = " and ".join(f"{there_is.get(name, 0):g} {name}" for name, value in asked.items() if value)
    labels = ", ".join(f"{key}={rule}" for key, rule in plan.placement.labels.items())
    where = f" where Ray nodes have {labels}" if labels else ""
    return (
        f"each of its {plan.replicas.min} replicas asks for {wanted}{where}, and Ray has {has} for all nodes together; "
        "see `cpus`, `gpus`, `labels` and `replicas` in the configuration"
    )


def _amounts(plan: NodePlan) -> dict[str, float]:
    """What a replica asks for, by the names that Ray has for it."""
    return {"CPU": plan.cpus, "GPU": plan.gpus, "memory": plan.placement.memory_bytes}


def _failure(plan: NodePlan, words: str) -> LegoError:
    """The one line of a replica's traceback that says what is wrong."""
    for line in words.splitlines():
        _, found, message = line.partition("CheckpointError: ")
        if found:
            return CheckpointError(message.strip())
    last = [line for line in words.splitlines() if line.strip()][-1:] or ["no reason given"]
    return NodeError(f"{plan.app} did not start: {last[0].strip()}")


def stop(apps: Sequence[str], *, owned: bool) -> None:
    """Take the nodes down; where Ray is ours, by taking Ray down with all it has started."""
    if not owned and ray.is_initialized():
        for app in apps:
            serve.delete(app)
        end_dispatchers(apps)
    ray.shutdown()


def application(plan: NodePlan, launcher: str | None = None) -> Any:
    """A node as a Serve application.  ``launcher`` starts Python processes in place of ``python``."""
    runtime_env: dict[str, Any] = {"env_vars": THREAD_ENVIRONMENT}
    if launcher is not None and not plan.gpus and plan.spec.device == "cpu":  # a fork may not use CUDA
        runtime_env["py_executable"] = launcher
    is_worker = isinstance(plan.options, WorkerOptions)
    deployment = serve.deployment(
        WorkerReplica if is_worker else NodeReplica,
        name=plan.component,
        max_constructor_retry_count=1,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_routing_stats_period_s=STATS_PERIOD_S
        ),
        autoscaling_config=autoscaling_config(
            plan.replicas, plan.share, WORKER_FULL if is_worker else FULL, _amounts(plan), plan.placement.labels
        ),
        max_replicas_per_node=plan.placement.max_per_node,
        ray_actor_options=_resources(plan) | {"runtime_env": runtime_env},
    )
    return deployment.bind(plan.options) if is_worker else deployment.bind(plan.spec, plan.options)


def _resources(plan: NodePlan) -> dict[str, Any]:
    """What Ray is to reserve for a replica, and where."""
    asked: dict[str, Any] = {"num_cpus": plan.cpus, "num_gpus": plan.gpus}
    if plan.placement.memory_bytes:
        asked["memory"] = plan.placement.memory_bytes
    if plan.placement.labels:
        asked["label_selector"] = dict(plan.placement.labels)
    return asked
