"""What each deployment takes of the budget that all of them share."""

from collections.abc import Sequence
from dataclasses import replace

from lego_serve.configuration.workers import Budget
from lego_serve.core.scheduling.autoscaling import ReplicaShare
from lego_serve.errors import ConfigError
from lego_serve.serving.nodes.options import NodePlan

ROUNDING = 1e-9  # sums of fractions are not exact


def budgeted(plans: Sequence[NodePlan], budget: Budget) -> list[NodePlan]:
    """Return the plans with their shares.  Raises ConfigError where the fewest replicas take more than there is."""
    shared = [replace(plan, share=_share(plan, budget)) for plan in plans]
    for resource, most in (("gpus", budget.gpus), ("cpus", budget.cpus)):
        taken = {plan.app: plan.replicas.min * plan.share.cost for plan in shared if _resource(plan) == resource}
        if most is not None and sum(taken.values()) > most + ROUNDING:
            parts = ", ".join(f"{app} {cost:g}" for app, cost in sorted(taken.items()) if cost)
            raise ConfigError(
                f"`budget.{resource}`: the fewest replicas take {sum(taken.values()):g} and it is {most:g} ({parts})"
            )
    return shared


def _share(plan: NodePlan, budget: Budget) -> ReplicaShare:
    group = "/".join(part for part in (plan.server, _resource(plan)) if part)
    return ReplicaShare(group, plan.gpus, budget.gpus) if plan.gpus else ReplicaShare(group, plan.cpus, budget.cpus)


def _resource(plan: NodePlan) -> str:
    """What bounds a replica: GPUs where it has any."""
    return "gpus" if plan.gpus else "cpus"
