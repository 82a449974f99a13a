"""What is private of Ray and used here is still there: when Ray changes it, this says so before a server does."""

import asyncio
import inspect
import logging
import os
import re

import pytest
from ray import _raylet
from ray._private import node, parameter, services, worker
from ray._raylet import InnerGcsClient
from ray.core.generated import autoscaler_pb2
from ray.serve._private import replica
from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.request_router import request_router
from ray.serve.handle import DeploymentBroadcastResponse

from lego_serve.core.placement.room import Ask
from lego_serve.serving.cluster import ray_internals


def test_ray_still_has_what_a_request_router_is_made_of() -> None:
    """A router of one's own subclasses this class and overrides these methods, with these parameters."""
    router = ray_internals.RequestRouter
    for method, parameters in (
        ("choose_replicas", ["self", "candidate_replicas", "pending_request"]),
        ("_fulfill_next_pending_request", ["self", "replica", "request_metadata"]),
        ("update_replicas", ["self", "replicas"]),
    ):
        found = list(inspect.signature(getattr(router, method)).parameters)
        assert found == parameters, (
            f"Ray changed RequestRouter.{method}({', '.join(found)}): see serving/cluster/router.py"
        )


def test_ray_still_keeps_the_books_that_the_router_reads() -> None:
    """By these names; they are set up in Ray's own constructor."""
    source = inspect.getsource(request_router)
    for name in (
        "_pending_requests_to_fulfill",
        "_routing_task_by_pending_request_future",
        "_replica_id_set",
        "_deployment_id",
        "_record_queue_wait_time",
    ):
        assert f"self.{name}" in source or f"def {name}" in source, (
            f"Ray no longer has {name}: see serving/cluster/router.py"
        )
    assert "should_backoff" in source, "Ray's routing context has changed: see serving/cluster/router.py"


def test_ray_still_hands_out_each_replicas_answer_to_a_broadcast() -> None:
    """One by one, and cancels those that are waited for no longer."""
    assert inspect.iscoroutinefunction(DeploymentBroadcastResponse._fetch_replica_results_async)
    for method in ("get_async", "cancel"):
        assert hasattr(ReplicaResult, method), (
            f"Ray changed ReplicaResult.{method}: see serving/cluster/ray_internals.py"
        )


class Result:
    """A replica's answer as Ray has it: a value, an exception, or nothing yet."""

    def __init__(self, outcome: object) -> None:
        self.outcome, self.is_cancelled = outcome, False

    async def get_async(self) -> object:
        """As Ray has it."""
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        """As Ray has it."""
        self.is_cancelled = True


async def test_answers_to_a_broadcast_come_without_the_one_that_does_not() -> None:
    """A stopped replica holds nobody up, and its question is withdrawn."""
    results = [Result(None), Result("a"), Result(ValueError("b"))]

    class Broadcast:
        """To three replicas."""

        async def _fetch_replica_results_async(self) -> list[Result]:
            return results

    answers, found = ray_internals.answers_as_they_come(Broadcast()), set()
    for _ in range(2):
        found.add(repr(await asyncio.wait_for(anext(answers), 60)))
    await answers.aclose()  # type: ignore[attr-defined]
    assert found == {"'a'", "ValueError('b')"}
    assert [result.is_cancelled for result in results] == [True, False, False]


def test_only_one_file_imports_what_is_private_of_ray() -> None:
    """So that a change of Ray is mended in one place."""
    from pathlib import Path

    import lego_serve

    files = Path(lego_serve.__file__).parent.rglob("*.py")
    private = [file.name for file in files if re.search(r"\bray(\.\w+)*\._private", file.read_text())]
    assert private == ["ray_internals.py"]


def test_replicas_listen_on_loopback_where_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve asks for a port of all addresses in this one place, after the class of the deployment has been made."""
    source = inspect.getsource(replica)
    assert source.count('add_port_to_grpc_server(self._server, "[::]:0")') == 1, (
        "Serve listens otherwise: see serving/cluster/ray_internals.py"
    )
    asked: list[str] = []

    def add(server: object, address: str) -> int:
        asked.append(address)
        return 7

    for value, address in (("1", "[::]:0"), ("0", "127.0.0.1:0")):
        monkeypatch.setattr(replica, "add_port_to_grpc_server", add)
        monkeypatch.setenv(ray_internals.LOCAL_RAY, value)
        ray_internals.keep_to_this_machine()
        ray_internals.keep_to_this_machine()
        assert replica.add_port_to_grpc_server(None, "[::]:0") == 7
        assert asked.pop() == address


def test_a_raylet_that_starts_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray asks for its node by this function, which raises RuntimeError until it is there."""
    source = inspect.getsource(node.Node.__init__)
    assert "services.get_node(" in source, "Ray waits for its raylet otherwise: see serving/cluster/ray_internals.py"
    assert "except RuntimeError" in source
    asked: list[object] = []

    def find(*arguments: object) -> str:
        asked.append(arguments)
        if len(asked) < 3:
            raise RuntimeError("not there yet")
        return "there"

    monkeypatch.setattr(services, "get_node", find)
    monkeypatch.setattr(ray_internals, "RAYLET_PAUSE_S", 0.0)
    monkeypatch.setattr(ray_internals, "_runs_a_raylet", lambda: True)
    ray_internals.wait_for_a_slow_raylet()
    ray_internals.wait_for_a_slow_raylet()
    assert services.get_node("address", "id") == "there"
    assert asked == [("address", "id")] * 3
    monkeypatch.setattr(ray_internals, "_runs_a_raylet", lambda: False)
    asked.clear()
    with pytest.raises(RuntimeError, match="not there yet"):
        services.get_node("address", "id")


def test_a_raylet_is_told_its_agents_ports_and_so_does_not_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are free ones of this machine, but for what was set already."""
    made_by = inspect.getsource(worker.init)
    assert "ray._private.parameter.RayParams(" in made_by, "Ray takes parameters otherwise: see ray_internals.py"
    monkeypatch.setattr(parameter, "RayParams", parameter.RayParams)
    started: list[tuple[list[str], str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind, **named: started.append((command, kind)))
    monkeypatch.setenv(ray_internals.AGENT_PATIENCE, "")
    monkeypatch.delenv(ray_internals.AGENT_PATIENCE)
    ray_internals.name_ports_of_agents()
    ray_internals.name_ports_of_agents()
    named = parameter.RayParams(metrics_export_port=1234)
    ports = [getattr(named, name) for name in ray_internals.AGENTS_PORTS]
    assert len(set(ports)) == 4
    assert ports.pop(ray_internals.AGENTS_PORTS.index("metrics_export_port")) == 1234
    assert set(ports) <= set(ray_internals.PORTS_TO_NAME)  # not Ray's own 52365, which another Ray may have
    assert os.environ[ray_internals.AGENT_PATIENCE] == "180000"
    # Ray gives this one to the agent and not to the raylet, which has an option for it and otherwise waits.
    assert "start_ray_process(" in inspect.getsource(services.start_raylet)
    services.start_ray_process(["raylet", "--dashboard_agent_command=python a.py --listen-port=20001 -x"], "raylet")
    services.start_ray_process(["raylet", "--dashboard_agent_command=python a.py --listen-port=0 -x"], "raylet")
    services.start_ray_process(["gcs_server", "--listen-port=20001"], "gcs_server")
    assert [command[2:] for command, _ in started] == [["--dashboard_agent_listen_port=20001"], [], []]


def test_what_ray_prints_on_a_drivers_console_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread of error messages looks up, at each message, the function that is replaced here."""
    listens = inspect.getsource(worker.listen_error_messages)
    assert "print_to_stdstream(" in listens, "Ray prints its errors otherwise: see serving/cluster/ray_internals.py"
    assert list(inspect.signature(worker.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # put back afterwards
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
        monkeypatch.setattr(logger, "propagate", False)
    ray_internals.log_like_this_process()
    worker.print_to_stdstream({"lines": ["A worker died."], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    logging.getLogger("ray.serve").warning("A replica is gone.")
    assert [record.getMessage() for record in caplog.records] == ["raylet: A worker died.", "A replica is gone."]
    assert capsys.readouterr().out == ""


def test_ray_still_has_a_store_of_texts() -> None:
    """With these methods and their time-outs; before a process has joined Ray it says so."""
    for name in ("internal_kv_get", "internal_kv_put", "internal_kv_del", "internal_kv_keys"):
        assert "timeout" in (getattr(InnerGcsClient, name).__doc__ or ""), f"Ray changed {name}: see KeyValueStore"
    with pytest.raises(ConnectionError):
        ray_internals.KeyValueStore().get("a")


class FakeGcs:
    """Ray's head, which says what has no node."""

    def __init__(self, reply: autoscaler_pb2.GetClusterStatusReply) -> None:
        self.reply = reply

    def get_cluster_status(self, timeout_s: float) -> bytes:
        """Its bytes, as Ray's client hands them out."""
        return self.reply.SerializeToString()


def request(bundle: dict[str, float], *rules: tuple[str, str, list[str]]) -> autoscaler_pb2.ResourceRequest:
    """What Ray keeps of an actor that has no node."""
    made = autoscaler_pb2.ResourceRequest(resources_bundle=bundle)
    for key, operator, values in rules:
        selector = made.label_selectors[0] if made.label_selectors else made.label_selectors.add()
        selector.label_constraints.add(label_key=key, operator=f"LABEL_OPERATOR_{operator}", label_values=values)
    return made


def test_what_ray_says_of_actors_without_a_node_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With labels, without what Serve adds for `max_per_node`, and with the autoscaler's word where there is one."""
    rules = (("class", "IN", ["a", "b"]), ("zone", "NOT_IN", ["c"]))
    big = request({"GPU": 0.6, f"{ray_internals.PER_NODE}m.vae:vae": 0.5}, *rules)
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.cluster_resource_state.pending_resource_requests.add(request=big, count=2)
    monkeypatch.setattr(ray_internals, "_gcs_client", lambda: FakeGcs(reply))
    ask = Ask.of({"GPU": 0.6}, {"class": "in(b, a)", "zone": "!c"})
    room = ray_internals.cluster_room()
    assert (room.waiting(ask), room.is_growing, room.may_come(ask)) == (2, False, False)
    reply.autoscaling_state.autoscaler_state_version = 1
    assert ray_internals.cluster_room().may_come(ask)
    reply.autoscaling_state.infeasible_resource_requests.append(big)
    assert not ray_internals.cluster_room().may_come(ask)


def test_rays_client_still_says_how_the_cluster_is() -> None:
    """By the name that Ray's own tools use; the hook and the start of a server ask it."""
    assert hasattr(InnerGcsClient, "get_cluster_status"), "Ray changed get_cluster_status: see cluster_room"
    assert vars(_raylet)["IMPLICIT_RESOURCE_PREFIX"] == ray_internals.PER_NODE
