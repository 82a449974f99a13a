"""The autoscaling hook: what Serve gives it reaches the core's rule, and what it returns comes back next time."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.serving.cluster.autoscaler import RULE, autoscaling_config, replicas_wanted


@dataclass
class FakeContext:
    """The fields of Serve's AutoscalingContext that the hook reads."""

    total_num_requests: float
    current_time: float
    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 4
    policy_state: dict[str, Any] = field(default_factory=dict)


BUSY = 3 * RULE.target_ongoing


def test_growth_is_made_once_it_has_been_wanted_for_the_rules_delay() -> None:
    """The state of one call is what the next one starts from."""
    replicas, state = replicas_wanted(FakeContext(BUSY, 100.0))
    assert (replicas, state) == (1, {"direction": 1, "since_s": 100.0})
    early = replicas_wanted(FakeContext(BUSY, 99.0 + RULE.up_delay_s, policy_state=state))
    assert early == (1, state)
    assert replicas_wanted(FakeContext(BUSY, 100.0 + RULE.up_delay_s, policy_state=state))[0] == 3


def test_without_the_state_the_wait_starts_anew() -> None:
    """As after a restart of Serve's controller."""
    assert replicas_wanted(FakeContext(BUSY, 1e6)) == (1, {"direction": 1, "since_s": 1e6})


def test_the_bounds_are_those_that_serve_adjusts_to_its_capacity() -> None:
    """They hold at once."""
    context = FakeContext(0, 0.0, target_num_replicas=4, capacity_adjusted_max_replicas=2)
    assert replicas_wanted(context)[0] == 2


def test_serve_finds_the_hook_by_its_name_and_adds_no_delays() -> None:
    """A deployment starts with the fewest replicas."""
    config = autoscaling_config(ReplicaBounds(2, 5))
    assert (config["min_replicas"], config["initial_replicas"], config["max_replicas"]) == (2, 2, 5)
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (0, 0)
    module, _, name = config["policy"]["policy_function"].partition(":")
    assert getattr(import_module(module), name) is replicas_wanted
