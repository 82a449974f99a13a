"""The autoscaling hook: what Serve gives it reaches the core's rule, and what it returns comes back next time."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.serving.cluster import autoscaler
from lego_serve.serving.cluster.autoscaler import RULE, ReplicaPolicy, autoscaling_config
from lego_serve.serving.cluster.scale_records import BOARD, PIN, ScaleRecords
from tests.support.scale_texts import FakeStore


@dataclass
class FakeContext:
    """The fields of Serve's AutoscalingContext that the hook reads."""

    total_num_requests: float
    current_time: float
    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 64
    policy_state: dict[str, Any] = field(default_factory=dict)
    app_name: str = "app"


BUSY = 3 * RULE.target_ongoing
ONE_TO_FOUR = ReplicaPolicy(1, 4)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    """What the controller and the gateways share."""
    store = FakeStore()
    records = ScaleRecords(store)
    monkeypatch.setattr(autoscaler, "controllers_records", lambda: records)
    return store


def test_growth_is_made_once_it_has_been_wanted_for_the_rules_delay() -> None:
    """The state of one call is what the next one starts from."""
    replicas, state = ONE_TO_FOUR(FakeContext(BUSY, 100.0))
    assert (replicas, state) == (1, {"direction": 1, "since_s": 100.0})
    early = ONE_TO_FOUR(FakeContext(BUSY, 99.0 + RULE.up_delay_s, policy_state=state))
    assert early == (1, state)
    assert ONE_TO_FOUR(FakeContext(BUSY, 100.0 + RULE.up_delay_s, policy_state=state))[0] == 3


def test_without_the_state_the_wait_starts_anew() -> None:
    """As after a restart of Serve's controller."""
    assert ONE_TO_FOUR(FakeContext(BUSY, 1e6)) == (1, {"direction": 1, "since_s": 1e6})


def test_the_bounds_are_the_configurations_as_far_as_serve_allows() -> None:
    """They hold at once; Serve's own may be narrower."""
    assert ONE_TO_FOUR(FakeContext(0, 0.0, target_num_replicas=9))[0] == 4
    assert ONE_TO_FOUR(FakeContext(0, 0.0, target_num_replicas=4, capacity_adjusted_max_replicas=2))[0] == 2


def test_pinned_bounds_hold_instead_and_the_board_says_why(store) -> None:
    """Also above what the configuration has; without the pin it holds again."""
    assert ONE_TO_FOUR(FakeContext(0, 10.0))[0] == 1
    store.put(f"{PIN}app", "[6, 7]")
    assert ONE_TO_FOUR(FakeContext(0, 12.0))[0] == 6
    store.remove(f"{PIN}app")
    assert ONE_TO_FOUR(FakeContext(0, 14.0, target_num_replicas=6))[0] == 4
    board = ScaleBoard.from_json(store.get(BOARD))
    assert [(each.before, each.after, each.why) for each in board.changes] == [
        (1, 6, "an operator pinned it to 6 to 7 replicas"),
        (6, 4, "its configuration allows 1 to 4 replicas"),
    ]


def test_serve_finds_the_hook_by_its_name_and_adds_no_delays() -> None:
    """A deployment starts with the fewest replicas; Serve's bounds leave room for pins."""
    config = autoscaling_config(ReplicaBounds(2, 5))
    assert (config["min_replicas"], config["initial_replicas"], config["max_replicas"]) == (1, 2, 64)
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (0, 0)
    module, _, name = config["policy"]["policy_function"].partition(":")
    assert getattr(import_module(module), name) is ReplicaPolicy
    assert ReplicaPolicy(**config["policy"]["policy_kwargs"])._configured == ReplicaBounds(2, 5)


CONTROLLER = """
import sys
from ray import cloudpickle
from lego_serve.serving.cluster.scale_records import ScaleRecords
from tests.serving.cluster.test_autoscaler import FakeContext
from tests.support.scale_texts import FakeStore
made = cloudpickle.loads(sys.stdin.buffer.read())(least=2, most=5)
records = ScaleRecords(FakeStore())
type(made).__call__.__globals__["controllers_records"] = lambda: records
print(made(FakeContext(0, 10.0))[0], records._board.nodes["app"].bounds.max)
"""


def test_serves_controller_makes_the_hook_of_what_a_deployment_says() -> None:
    """In another process, of what is pickled here, with the bounds beside it."""
    policy = AutoscalingConfig(**autoscaling_config(ReplicaBounds(2, 5))).policy
    assert policy.policy_kwargs == {"least": 2, "most": 5}
    pickled = policy.get_serialized_policy_def()
    done = subprocess.run([sys.executable, "-c", CONTROLLER], input=pickled, capture_output=True, check=False)
    assert done.stdout.split() == [b"2", b"5"], done.stderr.decode()
