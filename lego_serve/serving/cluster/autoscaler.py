"""Ray Serve's autoscaling hook for our nodes: asks the core's rule, which alone decides, delays included.

Serve's own bounds are wide, so that an operator may pin a node to more replicas than its configuration has; the
configuration's bounds, or the pinned ones, are the rule's.
"""

from typing import Any

from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleState, ScalingRule
from lego_serve.serving.cluster.scale_records import MOST_REPLICAS, controllers_records

RULE = ScalingRule()


class ReplicaPolicy:
    """Decides the replicas of one deployment, whose configuration has from ``least`` to ``most``."""

    def __init__(self, least: int, most: int) -> None:
        self._configured = ReplicaBounds(least, most)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the replicas, and the state Serve hands back with the next ``AutoscalingContext``."""
        records, now = controllers_records(), float(context.current_time)
        pinned = records.pinned(context.app_name, now)
        allowed = ReplicaBounds(context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas)
        wanted = pinned or self._configured
        bounds = ReplicaBounds(allowed.clamp(wanted.min), allowed.clamp(wanted.max))
        kept: dict[str, Any] = context.policy_state
        decision = RULE.decide(
            float(context.total_num_requests),
            context.target_num_replicas,
            bounds,
            ScaleState(int(kept.get("direction", 0)), float(kept.get("since_s", 0.0))),
            now,
        )
        records.note(context.app_name, context.target_num_replicas, decision, bounds, now, is_pinned=pinned is not None)
        return decision.replicas, {"direction": decision.state.direction, "since_s": decision.state.since_s}


def autoscaling_config(bounds: ReplicaBounds) -> dict[str, Any]:
    """Return Serve's configuration for a deployment; its own delays are off, since the rule has them."""
    return {
        "min_replicas": 1,
        "initial_replicas": bounds.min,
        "max_replicas": max(MOST_REPLICAS, bounds.max),
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "policy": {
            "policy_function": f"{__name__}:{ReplicaPolicy.__name__}",
            "policy_kwargs": {"least": bounds.min, "most": bounds.max},
        },
    }
