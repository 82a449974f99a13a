"""Every error that lego_serve raises on purpose; each says whose fault it is and what to do.

    LegoError
    |- RequestError            the caller's: the request can never succeed as it is
    |  |- UnsupportedParameter   a known field that this server does not support (400)
    |  |- NotFound               an unknown model, job or route (404)
    |  |- InvalidAdapter         an adapter's file is damaged, hostile or made for another model (400)
    |  |- PoisonError             replicas that computed the request have died of it (422)
    |  |- IdempotencyKeyReused   an idempotency key came with another request than the first time (422)
    |- CapacityError           ours, for now: try again later (429)
    |- JobCancelled            the job was cancelled by its caller or an operator (409)
    |- DeadlineExceeded        the job could not end before its deadline (504)
    |- JobEnded                a durable job has ended and changes no more (409)
    |- StaleAttempt            a write for an attempt of a durable job that another has taken over (409)
    |- StoreUnavailable        ours, for now: durable jobs can be neither read nor written; try again later (503)
    |- NodeError               ours: a model node failed (500)
    |  |- NodeUnavailable        ours, for now: a node cannot be reached or loaded; try again later (503)
    |- ConfigError             the operator's: a configuration file is wrong
    |- WorkflowError           the workflow author's: a graph is wrong
    |- CheckpointError         the operator's: a model folder is incomplete or of another kind

``status`` is the HTTP status, ``code`` the machine-readable word and ``kind`` OpenAI's ``type``.
Errors survive pickling between processes: a subclass with further arguments gives them defaults and
stores them in attributes, which pickle restores.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class LegoError(Exception):
    """An expected error; the message is fit for the caller to read."""

    status = 500
    code = "internal_error"
    kind = "server_error"
    retryable = False
    retry_after_s: float | None = None
    operator_reason = ""  # what the operator alone may read, with paths and libraries' words; for logs and decisions
    node_stats: Mapping[str, Any] = MappingProxyType({})  # what the nodes did of the job that ended with it, for traces

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class RequestError(LegoError):
    """The request is wrong and cannot succeed as it is."""

    status = 400
    code = "invalid_value"
    kind = "invalid_request_error"


def with_param(error: RequestError, param: str | None) -> RequestError:
    """Return a copy of an error that names the parameter differently."""
    message = error.message.replace(f"`{error.param}`", f"`{param}`") if param else error.message
    return type(error)(message, param=param, code=error.code)


class UnsupportedParameter(RequestError):
    """A field of the OpenAI API that this workflow does not support."""

    code = "unsupported_parameter"


class NotFound(RequestError):
    """The request names something that does not exist here."""

    status = 404
    code = "not_found"


class InvalidAdapter(RequestError):
    """An adapter cannot be used; the message names its id and the fault, never a path or a value."""

    code = "invalid_adapter"


class PoisonError(RequestError):
    """A request that ends the replicas that compute it."""

    status = 422
    code = "poison_request"


class IdempotencyKeyReused(RequestError):
    """An idempotency key that stands for another request."""

    status = 422
    code = "idempotency_key_reused"


class CapacityError(LegoError):
    """The server has no capacity now; ``retry_after_s`` says when to try again."""

    status = 429
    code = "over_capacity"
    kind = "rate_limit_error"
    retryable = True

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s


class JobCancelled(LegoError):
    """The job was cancelled before it ended."""

    status = 409
    code = "job_cancelled"
    kind = "invalid_request_error"


class DeadlineExceeded(LegoError):
    """The job's deadline passed before its image was ready."""

    status = 504
    code = "deadline_exceeded"


class JobEnded(LegoError):
    """A durable job has ended, so that nothing about it can change."""

    status = 409
    code = "job_ended"
    kind = "invalid_request_error"


class StaleAttempt(LegoError):
    """Who writes about a durable job has it no more."""

    status = 409
    code = "stale_attempt"


class StoreUnavailable(LegoError):
    """The store of durable jobs cannot be reached, or is full."""

    status = 503
    code = "store_unavailable"
    retryable = True
    retry_after_s = 2.0


class NodeError(LegoError):
    """A model node failed on one call; other calls of its batch may have succeeded."""

    code = "node_failed"


class NodeUnavailable(NodeError):
    """Replicas of a node cannot be reached now, or a worker holds it back since it could not be loaded."""

    status = 503
    code = "node_unavailable"
    retryable = True
    retry_after_s = 2.0


class ConfigError(LegoError):
    """A configuration file has a wrong key or value."""

    code = "bad_config"


class WorkflowError(LegoError):
    """A workflow's graph is wrong; the message names file, line, node and the nearest valid name."""

    code = "bad_workflow"


class CheckpointError(LegoError):
    """A model folder lacks a file, or holds another class or shape than its config says."""

    code = "bad_checkpoint"
