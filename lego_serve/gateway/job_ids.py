"""The ids of jobs, made of the ids of their requests."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager


class JobIds:
    """The ids of this process's jobs, so that no two in flight have the same one."""

    def __init__(self) -> None:
        self._reserved: set[str] = set()

    @contextmanager
    def reserve(self, request_id: str) -> Iterator[str]:
        """Hold the id of a request's job: the request's own, with a suffix where another job in flight has that."""
        job_id = f"job_{request_id}"
        if job_id in self._reserved:
            job_id += f"-{uuid.uuid4().hex[:8]}"
        self._reserved.add(job_id)
        try:
            yield job_id
        finally:
            self._reserved.discard(job_id)
