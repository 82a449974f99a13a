"""Starts or joins Ray and deploys the model nodes, each an application of its own without a route."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from lego_serve.models.loading import ModelSpec
from lego_serve.serving.nodes import BackboneNode, TextEncoderNode, VaeNode
from lego_serve.serving.transport import RayNode

OBJECT_STORE_BYTES = 256 * 2**20
MAX_ONGOING = 1024
THREAD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
NAMESPACE = "lego_serve"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One deployment: its model and component, its class's arguments, replicas and resources."""

    spec: ModelSpec
    component: str
    arguments: Mapping[str, Any]
    min_replicas: int
    max_replicas: int
    cpus: float
    gpus: float

    @property
    def app(self) -> str:
        """The name of its Serve application."""
        return f"{self.spec.name}.{self.component}"


CLASSES: dict[str, type] = {"text_encoder": TextEncoderNode, "backbone": BackboneNode, "vae": VaeNode}


def start_ray(address: str | None, cpus: int) -> tuple[str, Path | None]:
    """Start a private Ray (or join one); answers its address and the temp folder to remove afterwards."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} | THREAD_ENVIRONMENT)
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "error"}
    folder: Path | None = None
    if address is None:
        # Ray's socket paths must stay under 107 characters: a short folder.
        folder = Path(tempfile.mkdtemp(prefix="lego-", dir="/tmp"))
        options |= {
            "address": "local",
            "_temp_dir": str(folder),
            "include_dashboard": False,
            "num_cpus": cpus,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        options["address"] = address
    ray.init(**options)
    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"})
    return ray.get_runtime_context().gcs_address, folder


def deploy(plans: list[NodePlan], ready: Callable[[NodePlan], None]) -> None:
    """Deploy all nodes at once; ``ready`` is told of each as it comes up.  Raises RuntimeError as Serve does."""
    for plan in plans:
        serve.run_many(
            [serve.RunTarget(_application(plan), name=plan.app, route_prefix=None)],
            wait_for_applications_running=False,
        )
    for plan in plans:
        serve.run_many([serve.RunTarget(_application(plan), name=plan.app, route_prefix=None)])
        ready(plan)


def connect(address: str, apps: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], RayNode]:
    """Join Ray as a client of deployed nodes; keys are (model, component)."""
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    return {key: RayNode(serve.get_app_handle(app)) for key, app in apps.items()}


def _application(plan: NodePlan) -> Any:
    deployment = serve.deployment(
        CLASSES[plan.component],
        name=plan.component,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        autoscaling_config={
            "min_replicas": plan.min_replicas,
            "initial_replicas": plan.min_replicas,
            "max_replicas": plan.max_replicas,
            "target_ongoing_requests": 8,
        },
        ray_actor_options={
            "num_cpus": plan.cpus,
            "num_gpus": plan.gpus,
            "runtime_env": {"env_vars": THREAD_ENVIRONMENT},
        },
    )
    return deployment.bind(plan.spec, **plan.arguments)
