"""Ray Serve's autoscaling hook for our nodes: asks the core's rule, which alone decides, delays included."""

from typing import Any

from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleState, ScalingRule

RULE = ScalingRule()


def replicas_wanted(context: Any) -> tuple[int, dict[str, Any]]:
    """Return the replicas of a deployment, and the state Serve hands back with the next ``AutoscalingContext``."""
    kept: dict[str, Any] = context.policy_state
    decision = RULE.decide(
        float(context.total_num_requests),
        context.target_num_replicas,
        ReplicaBounds(context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas),
        ScaleState(int(kept.get("direction", 0)), float(kept.get("since_s", 0.0))),
        float(context.current_time),
    )
    return decision.replicas, {"direction": decision.state.direction, "since_s": decision.state.since_s}


def autoscaling_config(bounds: ReplicaBounds) -> dict[str, Any]:
    """Return Serve's configuration for a deployment; its own delays are off, since the rule has them."""
    return {
        "min_replicas": bounds.min,
        "initial_replicas": bounds.min,
        "max_replicas": bounds.max,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "policy": {"policy_function": f"{__name__}:{replicas_wanted.__name__}"},
    }
