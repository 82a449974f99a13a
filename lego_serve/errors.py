"""Every error lego_serve raises on purpose; each says whose fault it is and what to do.

    LegoError
    |- RequestError            the caller's: the request can never succeed as it is
    |  |- UnsupportedParameter   a known field this server does not honour (400)
    |  |- NotFound               an unknown model, job or route (404)
    |  |- InvalidAdapter         an adapter's file is damaged, hostile or made for another model (400)
    |- CapacityError           ours, for now: try again later (429)
    |- JobCancelled            the job was cancelled by its caller or an operator (409)
    |- DeadlineExceeded        the job could not end before its deadline (504)
    |- NodeError               ours: a model node failed (500)
    |  |- NodeUnavailable        ours, for now: not all replicas of a node can be asked; try again later (503)
    |- ConfigError             the operator's: a configuration file is wrong
    |- WorkflowError           the workflow author's: a graph is wrong
    |- CheckpointError         the operator's: a model folder is incomplete or of another kind

``status`` is the HTTP status, ``code`` the machine-readable word and ``kind`` OpenAI's ``type``.
Errors cross process boundaries whole: a subclass that takes more than a message keeps it in an
attribute and lets everything but the message default, and pickle does the rest.
"""


class LegoError(Exception):
    """Something lego_serve expected could go wrong; the message is fit for the caller to read."""

    status = 500
    code = "internal_error"
    kind = "server_error"
    retryable = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class RequestError(LegoError):
    """The request is wrong and will stay so."""

    status = 400
    code = "invalid_value"
    kind = "invalid_request_error"


def with_param(error: RequestError, param: str | None) -> RequestError:
    """The same error about a parameter of another name."""
    message = error.message.replace(f"`{error.param}`", f"`{param}`") if param else error.message
    return type(error)(message, param=param, code=error.code)


class UnsupportedParameter(RequestError):
    """A field the OpenAI API knows and this workflow does not honour."""

    code = "unsupported_parameter"


class NotFound(RequestError):
    """The request names something that is not here."""

    status = 404
    code = "not_found"


class InvalidAdapter(RequestError):
    """An adapter cannot be used; the message names its id and the fault, never a path or a value."""

    code = "invalid_adapter"


class CapacityError(LegoError):
    """There is no room now; ``retry_after_s`` says when to come back."""

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


class NodeError(LegoError):
    """A model node failed; its batch-mates did not."""

    code = "node_failed"


class NodeUnavailable(NodeError):
    """Replicas of a node cannot be reached now: they have died, and others are on their way."""

    status = 503
    code = "node_unavailable"
    retryable = True
    retry_after_s = 2.0


class ConfigError(LegoError):
    """A configuration file says something it cannot mean."""

    code = "bad_config"


class WorkflowError(LegoError):
    """A workflow's graph is wrong; the message names file, line, node and the nearest valid name."""

    code = "bad_workflow"


class CheckpointError(LegoError):
    """A model folder lacks a file, or holds another class or shape than its config says."""

    code = "bad_checkpoint"
