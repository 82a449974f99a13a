"""Deploying nodes over a Serve that says what the test wants: progress, failure, no place."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.serve.schema import ApplicationStatus

from lego_serve.core.placement.room import Ask, ClusterRoom
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.errors import CheckpointError, ConfigError, NodeError
from lego_serve.models.registry import ModelSpec
from lego_serve.process.signals import Stopped
from lego_serve.serving.cluster import deploy as deploying
from lego_serve.serving.cluster.deploy import Patience, wait_until_up
from lego_serve.serving.nodes.options import NodePlan, VaeOptions

UNPLACED = "Deployment 'backbone' has 1 replicas that have taken more than 30s to be scheduled. This may be due to"
SLOW = "Deployment 'backbone' has 1 replicas that have taken more than 30s to initialize."


def plan(component: str) -> NodePlan:
    """A node that asks for 96 processors, two times."""
    return NodePlan(ModelSpec("tiny", "nowhere"), component, VaeOptions(), ReplicaBounds(2, 2), 96.0, 0)


class FakeServe:
    """Answers each look at the applications with the next of what it was given, and then with the last."""

    def __init__(self, *looks: dict[str, tuple[ApplicationStatus, str]]) -> None:
        self.looks = list(looks)

    def run_many(self, targets: object, wait_for_applications_running: bool) -> None:
        """Nothing to do."""

    def RunTarget(self, *args: object, **more: object) -> None:  # noqa: N802
        """Nothing to keep."""

    def status(self) -> SimpleNamespace:
        """The next look."""
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        applications = {
            name: SimpleNamespace(status=s, message="", deployments={"x": SimpleNamespace(message=words)})
            for name, (s, words) in look.items()
        }
        return SimpleNamespace(applications=applications)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray, no waiting."""
    monkeypatch.setattr(deploying, "STATUS_PAUSE_S", 0.01)
    monkeypatch.setattr(deploying, "application", lambda plan: None)
    monkeypatch.setattr(deploying.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(deploying, "cluster_room", ClusterRoom)


def use(monkeypatch: pytest.MonkeyPatch, *looks: dict[str, tuple[ApplicationStatus, str]]) -> None:
    """Have Serve say this."""
    monkeypatch.setattr(deploying, "serve", FakeServe(*looks))


def test_each_node_is_told_of_as_it_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order they do."""
    wait, run = (ApplicationStatus.DEPLOYING, ""), (ApplicationStatus.RUNNING, "")
    use(monkeypatch, {}, {"tiny.vae": wait, "tiny.backbone": run}, {"tiny.vae": run, "tiny.backbone": run})
    told: list[str] = []
    wait_until_up([plan("vae"), plan("backbone")], lambda plan: told.append(plan.app))
    assert told == ["tiny.backbone", "tiny.vae"]


def test_a_node_without_a_place_is_named_with_what_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what it wants and what there is; nobody waits for ever."""
    use(monkeypatch, {"tiny.backbone": (ApplicationStatus.DEPLOYING, UNPLACED)})
    with pytest.raises(NodeError) as failed:
        wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 60))
    message = failed.value.message
    assert message.startswith("tiny.backbone finds no place: each of its 2 replicas asks for 96 CPU, and Ray has 2 CPU")
    assert "\n" not in message


def test_a_slow_load_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that has its place may take its time, beyond all patience."""
    slow, run = (ApplicationStatus.DEPLOYING, SLOW), (ApplicationStatus.RUNNING, "")
    use(monkeypatch, *[{"tiny.backbone": slow}] * 20, {"tiny.backbone": run})
    wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 0.05))


def test_a_process_that_is_slow_to_start_is_waited_for_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve says the same of it as of one that has no place; but not for ever."""
    monkeypatch.setattr(deploying.ray, "cluster_resources", lambda: {"CPU": 192.0})
    slow, run = (ApplicationStatus.DEPLOYING, UNPLACED), (ApplicationStatus.RUNNING, "")
    use(monkeypatch, *[{"tiny.backbone": slow}] * 20, {"tiny.backbone": run})
    wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 60))
    use(monkeypatch, {"tiny.backbone": slow})
    with pytest.raises(NodeError, match="finds no place"):
        wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.01, 0.05))


BIG = Ask({"CPU": 96.0})


def test_a_node_that_an_autoscaler_may_still_add_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is too small for it as yet; but not for ever."""
    monkeypatch.setattr(deploying, "cluster_room", lambda: ClusterRoom(((BIG, 2),), is_growing=True))
    wait, run = (ApplicationStatus.DEPLOYING, UNPLACED), (ApplicationStatus.RUNNING, "")
    use(monkeypatch, *[{"tiny.backbone": wait}] * 20, {"tiny.backbone": run})
    wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 0.05, 60))
    use(monkeypatch, {"tiny.backbone": wait})
    with pytest.raises(NodeError, match=r"Ray has 2 CPU .*; its autoscaler has added no Ray node for it$"):
        wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.01, 60, 0.05))


def test_a_node_that_no_autoscaler_adds_is_an_error_as_soon_as_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says itself what none of the nodes that it may add would hold."""
    monkeypatch.setattr(deploying, "cluster_room", lambda: ClusterRoom(((BIG, 2),), (BIG,), is_growing=True))
    use(monkeypatch, {"tiny.backbone": (ApplicationStatus.DEPLOYING, UNPLACED)})
    with pytest.raises(NodeError, match="finds no place"):
        wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 60, 60))


def test_a_process_that_has_its_node_is_waited_for_while_others_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of Ray has too little as yet, and what this one asks nobody waits for: its process is slow to start."""
    other = Ask({"GPU": 1.0})
    monkeypatch.setattr(deploying, "cluster_room", lambda: ClusterRoom(((other, 1),), is_growing=True))
    slow, run = (ApplicationStatus.DEPLOYING, UNPLACED), (ApplicationStatus.RUNNING, "")
    use(monkeypatch, *[{"tiny.backbone": slow}] * 20, {"tiny.backbone": run})
    wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 60, 0.05))


def test_a_ray_that_does_not_say_what_waits_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one without an autoscaler."""

    def silent() -> ClusterRoom:
        raise ConnectionError("away")

    monkeypatch.setattr(deploying, "cluster_room", silent)
    use(monkeypatch, {"tiny.backbone": (ApplicationStatus.DEPLOYING, UNPLACED)})
    with pytest.raises(NodeError, match="finds no place"):
        wait_until_up([plan("backbone")], lambda plan: None, patience=Patience(0.05, 60, 60))


def test_a_checkpoints_fault_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the replica's traceback only the line that says it."""
    words = "Traceback\n  File\nlego_serve.errors.CheckpointError: there is no folder nowhere\n"
    use(monkeypatch, {"tiny.vae": (ApplicationStatus.DEPLOY_FAILED, words)})
    with pytest.raises(CheckpointError, match=r"^there is no folder nowhere$"):
        wait_until_up([plan("vae")], lambda plan: None)


def test_loading_stops_when_the_server_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made all the while."""
    use(monkeypatch, {"tiny.vae": (ApplicationStatus.DEPLOYING, "")})
    looks = iter([None, None, Stopped(143)])

    def check() -> None:
        if (error := next(looks)) is not None:
            raise error

    with pytest.raises(Stopped):
        wait_until_up([plan("vae")], lambda plan: None, check)


def test_a_ray_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names the key and the address."""

    def init(**options: object) -> None:
        raise ConnectionError("long words\nof several lines")

    monkeypatch.setattr(deploying.ray, "init", init)
    monkeypatch.setattr(deploying.os, "environ", dict(os.environ))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError) as refused:
            deploying.start_ray(address, 1, tmp_path)
    assert refused.value.message == f"`server.ray_address`: no Ray answers at {address} (ConnectionError)"
    with socket.socket() as silent:  # which holds its port, so that nobody else listens there meanwhile
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError) as refused:  # at once, where Ray would try for a quarter of an hour
            deploying.start_ray(address, 1, tmp_path)
    assert refused.value.message == f"`server.ray_address`: no Ray answers at {address} (Connection refused)"


def test_a_ray_whose_processes_took_too_long_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its code whoever started it knows that it may be started again; what Ray raises for it has no class."""

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(deploying.ray, "init", init)
    monkeypatch.setattr(deploying, "wait_for_a_slow_raylet", lambda: None)
    monkeypatch.setattr(deploying, "name_ports_of_agents", lambda: None)
    with pytest.raises(NodeError, match="Ray did not start: The current node timed out") as raised:
        deploying.start_ray(None, 1, tmp_path)
    assert raised.value.code == deploying.RAY_DID_NOT_START
