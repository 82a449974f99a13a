"""What is private of Ray and used here is still there: when Ray changes it, this says so before a server does."""

import inspect
import logging
import re

import pytest
from ray._private import worker
from ray._raylet import InnerGcsClient
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

    files = Path(lego_serve.__file__).parent.rglob("*.py")
    private = [file.name for file in files if re.search(r"\bray(\.\w+)*\._private", file.read_text())]
    assert private == ["ray_internals.py"]


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
