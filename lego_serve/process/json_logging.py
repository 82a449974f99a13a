"""Writes log records as lines of JSON: time, level, logger, message, whose it is, and the traceback if there is one.

A record may bring more fields: ``extra={"fields": {...}}``.  Of lines that repeat only so many are written, with the
number of those left out; those of requests and of operators' actions are all written.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

from lego_serve.core.repeats import RepeatLimit
from lego_serve.process.log_facts import FactsFilter

ACCESS_LOG, AUDIT_LOG = "lego_serve.access", "lego_serve.audit"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_more(record, "facts"),
            **_more(record, "fields"),
        }
        if left_out := getattr(record, "left_out", 0):
            fields["left_out"] = left_out
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _more(record: logging.LogRecord, name: str) -> Mapping[str, object]:
    more: Mapping[str, object] = getattr(record, name, {})
    return more


class RepeatFilter(logging.Filter):
    """Leaves out lines below ERROR that repeat too often: clients can cause as many as they like.

    A line's kind is its text before values are put in; the next one that is told says how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit, self._lock = RepeatLimit(), threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is told."""
        if record.levelno >= logging.ERROR or record.name in (ACCESS_LOG, AUDIT_LOG):
            return True
        with self._lock:
            left_out = self._limit.count(f"{record.name} {record.levelno} {record.msg}", record.created)
        if left_out is None:
            return False
        record.left_out = left_out
        return True


def json_handler(stream: TextIO) -> logging.Handler:
    """Return a handler that writes records to a stream as lines of JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RepeatFilter())
    handler.addFilter(FactsFilter())
    return handler


def install(stream: TextIO | None = None) -> None:
    """Log JSON in this process: lego_serve from INFO on, all other loggers from WARNING on."""
    logging.basicConfig(level=logging.WARNING, handlers=[json_handler(stream or sys.stderr)], force=True)
    logging.getLogger("lego_serve").setLevel(logging.INFO)
