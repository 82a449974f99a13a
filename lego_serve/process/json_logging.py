"""Writes log records as lines of JSON: time, level, logger, message, and the traceback if there is one.

Of lines that repeat only so many are written, with the number of those left out.
"""

import json
import logging
import sys
import threading
import time
from typing import TextIO

from lego_serve.core.repeats import RepeatLimit


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, str | int] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if left_out := getattr(record, "left_out", 0):
            fields["left_out"] = left_out
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class RepeatFilter(logging.Filter):
    """Leaves out lines below ERROR that repeat too often: clients can cause as many as they like.

    A line's kind is its text before values are put in; the next one that is told says how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit, self._lock = RepeatLimit(), threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is told."""
        if record.levelno >= logging.ERROR:
            return True
        with self._lock:
            left_out = self._limit.count(f"{record.name} {record.levelno} {record.msg}", record.created)
        if left_out is None:
            return False
        record.left_out = left_out
        return True


def install(stream: TextIO | None = None) -> None:
    """Log JSON in this process: lego_serve from INFO on, all other loggers from WARNING on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lego_serve").setLevel(logging.INFO)
