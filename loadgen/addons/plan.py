"""Suite ``addons`` as values: the add-ons of its requests; the rest is derived from suite ``mixed``.

Requests go equally often to Katz's two services, each with popularity curves, adapters and ControlNets of its own.
How many add-ons a request has is Katz's too: 98 % have a ControlNet and 70 % two, 95 % a LoRA; service
A's LRU of one place loads 1.88 LoRAs a request, so hardly any of its requests has fewer than two, service B's 0.89.
"""

from dataclasses import dataclass, replace

from loadgen.mixed.plan import MIXED, SearchPlan, SizeClass


@dataclass(frozen=True, slots=True)
class Service:
    """The add-ons of one service's requests; ``*_counts`` are the shares of requests with none, one and two."""

    name: str  # of its curves
    adapters: int
    controlnets: int
    adapter_counts: tuple[float, ...]
    controlnet_counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AddonsPlan:
    """The add-ons, their storage, and how much of them each system may keep.

    A load's share is of the baseline's warm solo latency of a plain image; a LoRA's and a ControlNet's are Katz's,
    2.3 and 0.28 of 2.9 seconds.  Places count add-ons of average size in all processes together.
    """

    services: tuple[Service, ...]
    adapter_load_share: float
    controlnet_load_share: float
    adapter_places: int
    controlnet_places: int
    adapter_scale: float
    control_weight: float
    checked: int  # images that lego_serve makes again, alone and without add-ons

    @property
    def adapters(self) -> int:
        """How many adapters all services have."""
        return sum(service.adapters for service in self.services)

    @property
    def controlnets(self) -> int:
        """How many ControlNets all services have."""
        return sum(service.controlnets for service in self.services)


CONTROLNET_COUNTS = (0.02, 0.28, 0.70)

ADDONS_PLAN = AddonsPlan(
    # ControlNets: as many as the most popular ones that 99 % of a service's calls go to.
    services=(
        Service("A", 100, 8, (0.05, 0.0, 0.95), CONTROLNET_COUNTS),
        Service("B", 100, 12, (0.05, 0.95), CONTROLNET_COUNTS),
    ),
    adapter_load_share=0.8,
    controlnet_load_share=0.1,
    # For each of two devices the most that Katz shows for an LRU of LoRAs, and its own number of ControlNets kept.
    adapter_places=20,
    controlnet_places=16,
    adapter_scale=0.7,
    control_weight=0.6,
    checked=6,
)

ADDONS = replace(
    MIXED,
    name="addons",
    title="Adapters and ControlNets",
    classes=(
        SizeClass("small", ((96, 96),)),
        SizeClass("middle", ((128, 128),)),
        SizeClass("large", ((160, 160),)),
    ),
    most_steps=16,
    without_guidance_every=0,
    full=replace(
        MIXED.full,
        ends_after_s=3000.0,
        trial_requests=48,
        probe_s=45.0,
        rated_s=80.0,
        search=SearchPlan(step=1.35, resolution=1.09, budget_s=200.0, most_probes=8),
        compiled_s=None,  # a compiled transformer is compiled anew for every adapter that is loaded
    ),
    quick=replace(
        MIXED.quick,
        trial_requests=16,
        closed_requests=40,
        probe_s=20.0,
        fewest_requests=36,
        search=SearchPlan(step=1.35, resolution=1.17, budget_s=150.0, most_probes=6),
    ),
)
