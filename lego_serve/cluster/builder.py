"""What Serve calls to build one application, as ``lego-serve cluster serve-config`` names it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lego_serve.cluster.serve_config import digest, on_a_cluster
from lego_serve.deployment import planned_applications
from lego_serve.errors import ConfigError
from lego_serve.places import state_folder
from lego_serve.planning.node_plans import node_plans


class BuilderArgs(BaseModel):
    """The configuration's path on the nodes, the application to build, and the digest of what it was printed from."""

    model_config = ConfigDict(extra="forbid")

    config: Path
    application: str
    digest: str


def build(args: BuilderArgs) -> Any:
    """Return the application.  Raises ConfigError where this node has another configuration."""
    from lego_serve.serving.cluster.deploy import application

    settings, workflows = on_a_cluster(args.config)
    plans = {plan.app: plan for plan in node_plans(settings, workflows, state_folder(settings))}
    if args.application not in plans:
        raise ConfigError(f"{args.config}: has no application {args.application}, but {', '.join(plans)}")
    plan = plans[args.application]
    if digest(settings, planned_applications(settings, workflows)[plan.app]) != args.digest:
        message = f"{args.config}: is not what Serve's configuration was printed from, as to {plan.app}; print it again"
        raise ConfigError(message)
    return application(plan)
