"""What routers and callers of one process share: the same, though Ray Serve copies the router's module."""

import pytest
from ray import cloudpickle

from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.scheduling.routing import ReplicaChoice
from lego_serve.serving.cluster import router, routing_state
from lego_serve.serving.cluster.routing_state import Topic


def test_a_router_that_came_by_value_uses_what_callers_use() -> None:
    """As Ray Serve sends it: the module's values come anew, what it names through another module does not."""
    cloudpickle.register_pickle_by_value(router)
    try:
        data = cloudpickle.dumps(router.LegoRequestRouter)
    finally:
        cloudpickle.unregister_pickle_by_value(router)
    came = cloudpickle.loads(data).update_replicas.__globals__
    assert came is not vars(router)
    assert came["routing_state"] is routing_state
    own = {name for name, value in vars(router).items() if isinstance(value, list | dict | set) and name[:2] != "__"}
    assert own == set()


def test_who_listens_hears_who_left_and_what_replicas_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of a model together; one that is gone is drained no longer."""
    heard: list[object] = []
    monkeypatch.setattr(routing_state, "_listeners", [])
    monkeypatch.setattr(routing_state, "_template_use", Topic())
    monkeypatch.setattr(routing_state, "_memory_use", Topic())
    routing_state.on_departure(heard.append)
    routing_state.on_template_use(lambda model, use: heard.append((model, use)))
    routing_state.leave("a")
    routing_state.left({"a"})
    assert "a" not in routing_state.choice.draining
    use = {"entries": 1, "used_bytes": 2, "budget_bytes": 3}
    routing_state.record_stats("m.v1.backbone", [{"template_use": use}, {}, {"template_use": use}])
    routing_state.record_stats("m.vae", [{}])
    assert heard == [frozenset({"a"}), ("m.v1", TemplateUse(2, 4, 6))]
    routing_state.on_memory_use(lambda node, model, uses: heard.append((node, model, uses)))
    routing_state.record_stats("m.vae", [{}, {"memory": {"prompts": [5, 9]}}, {"memory": {"prompts": (1, 9)}}])
    assert heard[2:] == [("vae", "m", {"prompts": (6, 18)})]


def test_who_listens_late_hears_what_was_last_heard_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new gateway's routers may hear of replicas before anybody listens, and nothing more while nothing changes."""
    for name in ("_template_use", "_memory_use", "_residents"):
        monkeypatch.setattr(routing_state, name, Topic())
    for entries in (1, 8):
        use = {"entries": entries, "used_bytes": 2, "budget_bytes": 3}
        routing_state.record_stats("m.backbone", [{"template_use": use, "memory": {"prompts": [entries, 9]}}])
        routing_state.record_replicas("m.backbone", {"a": (), "b": ()})
    routing_state.record_replicas("m.vae", {"c": ()})
    heard: list[object] = []
    routing_state.on_template_use(lambda model, use: heard.append((model, use)))
    routing_state.on_memory_use(lambda node, model, uses: heard.append((node, model, uses)))
    routing_state.on_replicas(lambda app, resident: heard.append((app, sorted(resident))))
    assert heard == [
        ("m", TemplateUse(8, 2, 3)),
        ("backbone", "m", {"prompts": (8, 9)}),
        ("m.backbone", ["a", "b"]),
        ("m.vae", ["c"]),
    ]


def test_who_listens_hears_which_replicas_drain_or_hang_until_they_are_well_or_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them each time: nothing is to be placed there."""
    heard: list[set[str]] = []
    monkeypatch.setattr(routing_state, "_unwell_listeners", [])
    monkeypatch.setattr(routing_state, "choice", ReplicaChoice())
    routing_state.on_unwell(lambda replicas: heard.append(set(replicas)))
    routing_state.leave("a")
    routing_state.note_hung((), {"b", "c"})
    routing_state.note_hung({"b", "c"}, {"c"})
    routing_state.left({"a"})
    routing_state.note_hung({"c"}, ())
    assert heard == [{"a"}, {"a", "b", "c"}, {"a", "c"}, {"c"}, set()]
