"""What is private of Ray and used here is still there: when Ray changes it, this says so before a server does."""

import inspect

from ray.serve._private.request_router import request_router

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


def test_only_one_file_imports_what_is_private_of_ray() -> None:
    """So that a change of Ray is mended in one place."""
    from pathlib import Path

    import lego_serve

    private = [f.name for f in Path(lego_serve.__file__).parent.rglob("*.py") if "_private" in f.read_text()]
    assert private == ["ray_internals.py"]
