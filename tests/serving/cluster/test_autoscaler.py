"""The autoscaling hook: what Serve gives it reaches the core's scaler, which those of a budget share."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from lego_serve.core.placement.replica_scaler import FULL, WORKER_FULL
from lego_serve.core.placement.room import SETTLED_S, Ask, ClusterRoom
from lego_serve.core.placement.waiting_reports import WaitingReport
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ReplicaShare
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.serving.cluster import autoscaler
from lego_serve.serving.cluster.autoscaler import ReplicaPolicy, autoscaling_config
from lego_serve.serving.cluster.scale_records import BOARD, PIN, WAITING, ScaleRecords, controllers_scaler
from tests.support.scale_texts import FakeStore


@dataclass
class FakeContext:
    """The fields of Serve's AutoscalingContext that the hook reads."""

    total_num_requests: float
    current_time: float
    target_num_replicas: int = 1
    current_num_replicas: int = 64
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 64
    policy_state: dict[str, Any] = field(default_factory=dict)
    app_name: str = "app"


BUSY = 24
ONE_TO_FOUR = ReplicaPolicy(1, 4)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    """What the controller and the gateways share."""
    store = FakeStore()
    records = ScaleRecords(store)
    controllers_scaler.cache_clear()
    monkeypatch.setattr(autoscaler, "controllers_records", lambda: records)
    return store


def wanted(policy: ReplicaPolicy, app: str, ongoing: float, current: int, seconds: Iterable[int]) -> int:
    """The replicas after a look in each of these seconds."""
    for second in seconds:
        context = FakeContext(ongoing, float(second), target_num_replicas=current, app_name=app)
        current, state = policy(context)
        assert state == {}
    return current


def test_a_node_grows_by_the_requests_that_serve_counts() -> None:
    """Twenty-four of them, for some minutes; the scaler has all state, and Serve keeps none."""
    assert wanted(ONE_TO_FOUR, "app", BUSY, 1, range(10)) == 1
    assert wanted(ONE_TO_FOUR, "app", BUSY, 1, range(10, 600)) == 3


def test_serves_own_wrapper_does_what_the_hook_says_at_once() -> None:
    """It adds delays, factors and bounds, none of which is to change a decision: up to three, and down again."""
    config = AutoscalingConfig(**autoscaling_config(ReplicaBounds(1, 4)))
    served, state, current, seen = _apply_autoscaling_config(ONE_TO_FOUR), dict[str, Any](), 1, [1]
    for second in range(0, 1200):
        fields = {"deployment_id": None, "deployment_name": "node", "app_name": "app", "running_replicas": []}
        context = AutoscalingContext(
            **fields,
            current_num_replicas=current,
            target_num_replicas=current,
            total_num_requests=float(BUSY) if second < 500 else 0.0,
            total_queued_requests=0.0,
            aggregated_metrics={},
            raw_metrics={},
            capacity_adjusted_min_replicas=config.min_replicas,
            capacity_adjusted_max_replicas=config.max_replicas,
            policy_state=state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=float(second),
            config=config,
        )
        current, state = served(context)
        seen += [current] if current != seen[-1] else []
    assert seen in ([1, 2, 3, 1], [1, 2, 3, 2, 1])


def test_jobs_that_wait_in_gateways_count_as_those_that_were_sent(store: FakeStore) -> None:
    """A worker with eight jobs at most, and some more that wait in two gateways."""
    policy, current = ReplicaPolicy(1, 4, full=WORKER_FULL), 1
    for second in range(600):
        for gateway in ("one", "two"):
            store.put(f"{WAITING}{gateway}", WaitingReport(second, {"app": 6, "another": 50}).to_json())
        current = wanted(policy, "app", 6, current, range(second, second + 1))
    assert current == 3


def test_deployments_of_one_budget_share_it_and_others_have_their_own() -> None:
    """What is left of four is one more, though the requests would want three."""
    one, other = (ReplicaPolicy(1, 4, "shop/gpus", 1.0, 4.0) for _ in range(2))
    busy = 1
    for second in range(250):
        busy = wanted(other, "busy", BUSY, busy, range(second, second + 1))
        assert wanted(one, "idle", 0, 2, range(second, second + 1)) == 2
    assert busy == 2
    assert wanted(ReplicaPolicy(1, 4, "other/gpus", 1.0, 4.0), "busy", BUSY, 1, range(600)) == 3


def test_the_bounds_are_the_configurations_as_far_as_serve_allows() -> None:
    """They hold at once; Serve's own may be narrower."""
    assert ONE_TO_FOUR(FakeContext(0, 0.0, target_num_replicas=9))[0] == 4
    assert ONE_TO_FOUR(FakeContext(0, 1.0, target_num_replicas=4, capacity_adjusted_max_replicas=2))[0] == 2


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


def test_the_board_says_which_replicas_wait_for_a_node_and_until_when(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is asked every two seconds at most, and only while some do not run; what it does not say changes nothing."""
    room, asked = [ClusterRoom(((Ask.of({"GPU": 1.0}, {"class": "big"}), 1),), is_growing=True)], list[float]()

    def ask() -> ClusterRoom:
        asked.append(now)
        return room[0]

    records = ScaleRecords(store, ask)
    monkeypatch.setattr(autoscaler, "controllers_records", lambda: records)
    share = ReplicaShare("shop/gpus", 1.0, 4.0)
    named = autoscaling_config(ReplicaBounds(2, 4), share, 8.0, {"CPU": 0, "GPU": 1}, {"class": "big"})
    policy = ReplicaPolicy(**named["policy"]["policy_kwargs"])
    for now in (0.0, 1.0, 2.0, SETTLED_S, SETTLED_S + 1):
        assert policy(FakeContext(0, now, target_num_replicas=2, current_num_replicas=1))[0] == 2
    assert asked == [0.0, 2.0, SETTLED_S]
    policy(FakeContext(0, 20.0, target_num_replicas=2, current_num_replicas=2))
    assert len(asked) == 3
    board = ScaleBoard.from_json(store.get(BOARD))
    waits = "1 of 2 replicas waits for a node: none has 1 GPU free where class is big, until the autoscaler has added"
    assert [(each.at, each.before, each.after, each.why) for each in board.changes] == [
        (SETTLED_S, 2, 2, f"{waits} one"),
        (20.0, 2, 2, "no replica waits for a node any more"),
    ]


def test_what_replicas_wait_for_is_not_asked_of_a_ray_that_does_not_answer(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not soon again: every question holds Serve's controller up."""
    asked = list[float]()

    def ask() -> ClusterRoom:
        asked.append(now)
        raise ConnectionError("away")

    records = ScaleRecords(store, ask)
    monkeypatch.setattr(autoscaler, "controllers_records", lambda: records)
    for now in map(float, range(30)):
        ONE_TO_FOUR(FakeContext(0, now, target_num_replicas=2, current_num_replicas=1))
    assert asked == [0.0, 17.0]


def test_serve_finds_the_hook_by_its_name_and_adds_no_delays() -> None:
    """A deployment starts with the fewest replicas; Serve's bounds leave room for pins."""
    config = autoscaling_config(ReplicaBounds(2, 5))
    assert (config["min_replicas"], config["initial_replicas"], config["max_replicas"]) == (1, 2, 64)
    assert (config["upscale_delay_s"], config["downscale_delay_s"]) == (0, 0)
    module, _, name = config["policy"]["policy_function"].partition(":")
    assert getattr(import_module(module), name) is ReplicaPolicy
    assert ReplicaPolicy(**config["policy"]["policy_kwargs"])._configured == ReplicaBounds(2, 5)
    assert config["policy"]["policy_kwargs"]["full"] == FULL


CONTROLLER = """
import sys
from ray import cloudpickle
from lego_serve.serving.cluster.scale_records import ScaleRecords, controllers_scaler
from tests.serving.cluster.test_autoscaler import FakeContext
from tests.support.scale_texts import FakeStore
pickled, share = sys.stdin.buffer.read(), {"group": "shop/cpus", "cost": 0.5, "budget": 8.0}
made, other = (cloudpickle.loads(pickled)(least=2, most=5, **share) for _ in range(2))
records = ScaleRecords(FakeStore())
for each in (made, other):
    type(each).__call__.__globals__["controllers_records"] = lambda: records
made(FakeContext(0, 10.0))
print(made(FakeContext(0, 50.0))[0], records._board.nodes["app"].bounds.max)
other(FakeContext(0, 10.0, app_name="other"))
print(len(controllers_scaler("shop/cpus", 8.0)._nodes))
"""


def test_serves_controller_makes_the_hook_of_what_a_deployment_says() -> None:
    """In another process, of what is pickled here, with the bounds beside it."""
    share = ReplicaShare("shop/cpus", 0.5, 8.0)
    policy = AutoscalingConfig(**autoscaling_config(ReplicaBounds(2, 5), share, 6.0)).policy
    bounds, budget = {"least": 2, "most": 5, "full": 6.0}, {"group": "shop/cpus", "cost": 0.5, "budget": 8.0}
    assert policy.policy_kwargs == bounds | budget | {"amounts": {}, "labels": {}}
    pickled = policy.get_serialized_policy_def()
    done = subprocess.run([sys.executable, "-c", CONTROLLER], input=pickled, capture_output=True, check=False)
    assert done.stdout.split() == [b"2", b"5", b"2"], done.stderr.decode()  # two nodes, one scaler
