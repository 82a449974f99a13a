"""Logs as lines of JSON: time, level, logger, message, and the traceback where there is one."""

import json
import logging
import sys
import time
from typing import TextIO


class JsonFormatter(logging.Formatter):
    """One record, one line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def install(stream: TextIO | None = None) -> None:
    """Have this process log so: our own loggers from INFO on, everybody else's from WARNING on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lego_serve").setLevel(logging.INFO)
