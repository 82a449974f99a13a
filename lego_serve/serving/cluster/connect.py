"""Joins a running Ray as a client of deployed nodes; imports no torch, for gateway processes."""

import logging
from collections.abc import Mapping

import ray
from ray import serve

from lego_serve.serving.cluster.handles import RayNode
from lego_serve.serving.cluster.ray_internals import log_like_this_process

NAMESPACE = "lego_serve"


def connect(address: str, apps: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], RayNode]:
    """Handles of deployed nodes by (model, component)."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every router it starts
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    log_like_this_process()
    return {key: RayNode(serve.get_app_handle(app)) for key, app in apps.items()}
