"""The files of durable jobs: images that came in, and results, in a folder for each job; and large kept answers.

    ID/SHA256.input     an image of the request, until the job ends
    ID/ATTEMPT-K.png    image K that an attempt made, until another one begins or the job ends without it
    answers/NAME        what a request with an `Idempotency-Key` that is no job was answered

Files know no fence.  So every attempt writes names of its own, and the record, which has one, says whose count: an
owner that wakes up late overwrites nothing.  A file appears whole or not at all, and is durable before anybody is told
of it.

Calls block for milliseconds; the event loop runs them in a thread.
"""

import hashlib
import re
from collections.abc import Container
from pathlib import Path

from lego_serve.core.durable_jobs.ids import is_job_id, made_at
from lego_serve.core.durable_jobs.inputs import passing_inputs
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.errors import NotFound
from lego_serve.jobstore.blobs.port import Blobs

ORPHAN_S = 3600.0  # a folder without a record may belong to a job that is being accepted
FORMATS = ("png", "jpeg", "webp")
RESULT = re.compile(r"(\d+)-\d+\.")  # begins the name of a result, also of one whose writing was cut off
ANSWERS = "answers"  # the folder of kept answers, which is no job's id


class JobFiles:
    """The files of all jobs, which all gateways share."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    @property
    def blobs(self) -> Blobs:
        """What they are kept in, where others may keep files in folders that are named after no job."""
        return self._blobs

    def write_input(self, job_id: str, content: bytes) -> str:
        """Keep an image of a request and return its sha256.  Raises StoreUnavailable."""
        digest = hashlib.sha256(content).hexdigest()
        self._blobs.write(_checked(job_id), f"{digest}.input", content, is_durable=True)
        return digest

    def read_input(self, job_id: str, digest: str) -> bytes:
        """Return an image of a request.  Raises NotFound, StoreUnavailable."""
        return self._read(job_id, f"{digest}.input")

    def delete_unneeded(self, record: JobRecord) -> None:
        """Remove what no tenant's bytes count: images of attempts that a job's record, as it is now, has left behind.

        Of an ended job the images of its request go as well.  Raises StoreUnavailable.
        """
        names = []
        if record.status.has_ended:
            names += [f"{digest}.input" for digest in passing_inputs(record.request.inputs)]
        first = record.first_attempt_that_counts
        if first > 1:  # else there is none that could have left any, which saves a look
            found = ((blob.name, RESULT.match(blob.name)) for blob in self._blobs.list(_checked(record.id)))
            names += [name for name, parts in found if parts is not None and int(parts[1]) < first]
        self._blobs.delete(_checked(record.id), names)

    def write_result(self, job_id: str, attempt: int, index: int, content: bytes, image_format: str = "png") -> str:
        """Keep an image that an attempt made and return its sha256.  Raises StoreUnavailable."""
        self._blobs.write(_checked(job_id), _result_name(attempt, index, image_format), content, is_durable=True)
        return hashlib.sha256(content).hexdigest()

    def read_result(self, job_id: str, attempt: int, index: int, image_format: str = "png") -> bytes:
        """Return an image that an attempt made.  Raises NotFound, StoreUnavailable."""
        return self._read(job_id, _result_name(attempt, index, image_format))

    def find_result(self, job_id: str, attempt: int, index: int, image_format: str = "png") -> Path | bytes:
        """Return an image that an attempt made: its file where it has one on this machine, or else its content.

        Raises NotFound, StoreUnavailable.
        """
        name = _result_name(attempt, index, image_format)
        return self._blobs.path(_checked(job_id), name) or self._read(job_id, name)

    def write_answer(self, name: str, content: bytes) -> None:
        """Keep the content of an answer under a name that no other has.  Raises StoreUnavailable."""
        self._blobs.write(ANSWERS, name, content, is_durable=True)

    def read_answer(self, name: str) -> bytes:
        """Return the content of a kept answer.  Raises NotFound, StoreUnavailable."""
        try:
            return self._blobs.read(ANSWERS, name)
        except FileNotFoundError:
            raise NotFound("This answer is not kept any more.") from None

    def delete_answers(self, before: float) -> None:
        """Remove the answers that were written before a time.  Raises StoreUnavailable."""
        old = [blob.name for blob in self._blobs.list(ANSWERS) if blob.written_at < before]
        self._blobs.delete(ANSWERS, old)

    def delete(self, job_id: str) -> None:
        """Remove everything about a job.  Raises StoreUnavailable."""
        self._blobs.delete_folder(_checked(job_id))

    def orphans(self, now: float) -> list[str]:
        """Return the jobs of over an hour in whose folders nothing was written for as long.

        Those without a record may be deleted.
        """
        young = now - ORPHAN_S
        jobs = (folder for folder in self._blobs.folders() if is_job_id(folder) and made_at(folder) < young)
        return sorted(job for job in jobs if all(blob.written_at < young for blob in self._blobs.list(job)))

    def delete_orphans(self, now: float, known: Container[str]) -> list[str]:
        """Remove the folders that no record is known for, and return their jobs."""
        gone = [job_id for job_id in self.orphans(now) if job_id not in known]
        for job_id in gone:
            self.delete(job_id)
        return gone

    def _read(self, job_id: str, name: str) -> bytes:
        try:
            return self._blobs.read(_checked(job_id), name)
        except FileNotFoundError:
            raise NotFound(f"Job {job_id} has no such file.", param="id") from None


def _checked(job_id: str) -> str:
    """Return an id as the name of a folder.  Raises NotFound: it may come from a URL."""
    if not is_job_id(job_id):
        raise NotFound("This is not the id of a job.", param="id")
    return job_id


def _result_name(attempt: int, index: int, image_format: str) -> str:
    if image_format not in FORMATS:
        raise NotFound(f"No job makes images of the format {image_format}.")
    return f"{attempt}-{index}.{image_format}"
