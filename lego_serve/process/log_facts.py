"""What log lines say of the request or job that they are about: its ids and its tenant.

One ``LogFacts`` a request, in a context variable.  Tasks that a request starts share it, so that whoever learns a fact
first, such as the tenant or the job's id, notes it for every later line.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class LogFacts:
    """The ids of a request or job, as far as they are known; the prompt is for the request's own line, if for any."""

    request_id: str | None = None
    job_id: str | None = None
    tenant: str | None = None
    trace_id: str | None = None
    prompt: str | None = None


NAMES = ("request_id", "job_id", "tenant", "trace_id")  # in every line
_current: ContextVar[LogFacts | None] = ContextVar("log_facts", default=None)


def log_facts() -> LogFacts:
    """Return the facts of the request or job at work here; outside of any, some that no line will have."""
    return _current.get() or LogFacts()


@contextmanager
def logged_with(facts: LogFacts) -> Iterator[None]:
    """Give every line that is logged in the block, and by tasks that it starts, these facts."""
    token = _current.set(facts)
    try:
        yield
    finally:
        _current.reset(token)


def log_with(facts: LogFacts) -> None:
    """Give every later line of a task these facts, where the task is for one job alone."""
    _current.set(facts)


class FactsFilter(logging.Filter):
    """Adds the known facts to a record, as ``facts``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out no record."""
        facts = _current.get()
        if facts is not None:
            record.facts = {name: value for name in NAMES if (value := getattr(facts, name)) is not None}
        return True
