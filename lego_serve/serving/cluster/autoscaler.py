"""Ray Serve's autoscaling hook for our nodes: asks the core's scaler, which alone decides, delays included.

Serve's own bounds are wide, so that an operator may pin a node to more replicas than its configuration has; the
configuration's bounds, or the pinned ones, are the scaler's.  Serve's controller runs the hooks of all deployments in
one process, so that those of one server share a scaler there, and with it a budget.  Ray pickles this module by value,
once for each deployment: what hooks share stands elsewhere.
"""

from collections.abc import Mapping
from typing import Any

from lego_serve.core.placement.replica_scaler import FULL, ReplicaLook
from lego_serve.core.placement.room import Ask
from lego_serve.core.scheduling.autoscaling import NO_BUDGET, ReplicaBounds, ReplicaShare
from lego_serve.serving.cluster.scale_records import MOST_REPLICAS, controllers_records, controllers_scaler

NOTHING: Mapping[str, float] = {}
NOWHERE: Mapping[str, str] = {}


class ReplicaPolicy:
    """Decides the replicas of one deployment, whose configuration has from ``least`` to ``most``.

    Each replica takes ``cost`` of the ``budget`` that the deployments of a ``group`` have together; ``full`` requests
    keep one busy.  It asks for ``amounts`` of Ray's resources on nodes with ``labels``.
    """

    def __init__(
        self,
        least: int,
        most: int,
        group: str = "",
        cost: float = 0.0,
        budget: float | None = None,
        full: float = FULL,
        amounts: Mapping[str, float] = NOTHING,
        labels: Mapping[str, str] = NOWHERE,
    ) -> None:
        self._configured, self._full = ReplicaBounds(least, most), full
        self._ask = Ask.of(amounts, labels)
        self._share = ReplicaShare(group, cost, budget)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the replicas, and no state: the scaler has it."""
        records, now, share = controllers_records(), float(context.current_time), self._share
        pinned = records.pinned(context.app_name, now)
        allowed = ReplicaBounds(context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas)
        wanted = pinned or self._configured
        bounds = ReplicaBounds(allowed.clamp(wanted.min), allowed.clamp(wanted.max))
        current = context.target_num_replicas
        ongoing, waiting = float(context.total_num_requests), records.waiting(context.app_name, now)
        look = ReplicaLook(bounds, current, ongoing, share.cost, waiting, self._full)
        decision = controllers_scaler(share.group, share.budget).look(context.app_name, look, now)
        waits = records.waits(context.app_name, current, context.current_num_replicas, self._ask, now)
        records.note(context.app_name, current, decision, bounds, now, is_pinned=pinned is not None, waits=waits)
        return decision.replicas, {}


def autoscaling_config(
    bounds: ReplicaBounds,
    share: ReplicaShare = NO_BUDGET,
    full: float = FULL,
    amounts: Mapping[str, float] = NOTHING,
    labels: Mapping[str, str] = NOWHERE,
) -> dict[str, Any]:
    """Return Serve's configuration for a deployment, of whose replicas ``full`` requests keep one busy.

    Each asks for ``amounts`` of Ray's resources on nodes with ``labels``.  Serve's own delays are off, since the scaler
    has them.
    """
    budgeted = {"group": share.group, "cost": share.cost, "budget": share.budget, "full": full}
    asked = {"amounts": dict(amounts), "labels": dict(labels)}
    return {
        "min_replicas": 1,
        "initial_replicas": bounds.min,
        "max_replicas": max(MOST_REPLICAS, bounds.max),
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "policy": {
            "policy_function": f"{__name__}:{ReplicaPolicy.__name__}",
            "policy_kwargs": {"least": bounds.min, "most": bounds.max} | budgeted | asked,
        },
    }
