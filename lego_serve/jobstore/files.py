"""The files of durable jobs: images that came in, checkpoints, and results, in a folder for each job.

    ID/SHA256.input     an image of the request
    ID/ATTEMPT.ckpt     the lanes of an attempt, as far as they were stored
    ID/ATTEMPT-K.png    image K that an attempt made

Files know no fence.  So every attempt writes names of its own, and the record, which has one, says whose count: an
owner that wakes up late overwrites nothing.  A file appears whole or not at all.  Inputs and results are on the disk
before anybody is told of them; a checkpoint that power loss takes only costs steps.

Calls block for milliseconds; the event loop runs them in a thread.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Container
from pathlib import Path

from lego_serve.core.durable_jobs.checkpoint import DamagedCheckpoint, JobCheckpoint, pack, unpack
from lego_serve.core.durable_jobs.ids import is_job_id
from lego_serve.errors import NotFound, StoreUnavailable

ORPHAN_S = 3600.0  # a folder without a record may belong to a job that is being accepted
CHECKPOINT = re.compile(r"(\d+)\.ckpt")
FORMATS = ("png", "jpeg", "webp")


class JobFiles:
    """The folder that all gateways share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder itself; what is not named as a job is left alone."""
        return self._root

    def write_input(self, job_id: str, content: bytes) -> str:
        """Keep an image of a request and return its sha256; it is on the disk then.  Raises StoreUnavailable."""
        digest = hashlib.sha256(content).hexdigest()
        self._write(job_id, f"{digest}.input", content, is_durable=True)
        return digest

    def read_input(self, job_id: str, digest: str) -> bytes:
        """Return an image of a request.  Raises NotFound."""
        return self._read(job_id, f"{digest}.input")

    def write_result(self, job_id: str, attempt: int, index: int, content: bytes, image_format: str = "png") -> str:
        """Keep an image that an attempt made and return its sha256; it is on the disk then.

        Raises StoreUnavailable.
        """
        self._write(job_id, _result_name(attempt, index, image_format), content, is_durable=True)
        return hashlib.sha256(content).hexdigest()

    def read_result(self, job_id: str, attempt: int, index: int, image_format: str = "png") -> bytes:
        """Return an image that an attempt made.  Raises NotFound."""
        return self._read(job_id, _result_name(attempt, index, image_format))

    def result_path(self, job_id: str, attempt: int, index: int, image_format: str = "png") -> Path:
        """Return the file of an image that an attempt made.  Raises NotFound."""
        path = self._folder(job_id) / _result_name(attempt, index, image_format)
        if not path.is_file():
            raise NotFound(f"Job {job_id} has no such file.", param="id")
        return path

    def write_checkpoint(self, checkpoint: JobCheckpoint) -> None:
        """Keep how far an attempt is, in place of what it kept before.  Raises StoreUnavailable."""
        self._write(checkpoint.job_id, f"{checkpoint.attempt}.ckpt", pack(checkpoint), is_durable=False)

    def latest_checkpoint(self, job_id: str) -> JobCheckpoint | None:
        """Return the checkpoint of the latest attempt that left a whole one; None where the job starts anew."""
        for _, file in sorted(self._checkpoints(job_id), reverse=True):
            try:
                found = unpack(file.read_bytes())
            except (OSError, DamagedCheckpoint):
                continue
            if found.job_id == job_id:
                return found
        return None

    def delete_checkpoints(self, job_id: str) -> None:
        """Remove what an ended job needs no more."""
        for _, file in self._checkpoints(job_id):
            file.unlink(missing_ok=True)

    def delete(self, job_id: str) -> None:
        """Remove everything about a job."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def orphans(self, now: float) -> list[str]:
        """Return the jobs whose folders have not changed for an hour; those without a record may be deleted."""
        return sorted(
            folder.name
            for folder in self._root.glob("job_*")
            if is_job_id(folder.name) and (changed := _changed_at(folder)) is not None and changed < now - ORPHAN_S
        )

    def delete_orphans(self, now: float, known: Container[str]) -> list[str]:
        """Remove the folders that no record is known for, and return their jobs."""
        gone = [job_id for job_id in self.orphans(now) if job_id not in known]
        for job_id in gone:
            self.delete(job_id)
        return gone

    def _folder(self, job_id: str) -> Path:
        if not is_job_id(job_id):
            raise NotFound("This is not the id of a job.", param="id")
        return self._root / job_id

    def _checkpoints(self, job_id: str) -> list[tuple[int, Path]]:
        files = self._folder(job_id).glob("*.ckpt")
        return [(int(match[1]), file) for file in files if (match := CHECKPOINT.fullmatch(file.name))]

    def _read(self, job_id: str, name: str) -> bytes:
        try:
            return (self._folder(job_id) / name).read_bytes()
        except OSError:
            raise NotFound(f"Job {job_id} has no such file.", param="id") from None

    def _write(self, job_id: str, name: str, content: bytes, *, is_durable: bool) -> None:
        folder = self._folder(job_id)
        unfinished = folder / f"{name}.{secrets.token_hex(8)}.tmp"
        try:
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            unfinished.replace(folder / name)
            if is_durable:
                _sync_folder(folder)
                if is_new:
                    _sync_folder(self._root)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            reason = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "cannot be written"
            raise StoreUnavailable(f"The folder of jobs {reason}; try again later.") from error


def _result_name(attempt: int, index: int, image_format: str) -> str:
    if image_format not in FORMATS:
        raise NotFound(f"No job makes images of the format {image_format}.")
    return f"{attempt}-{index}.{image_format}"


def _changed_at(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except OSError:
        return None


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a file's own fsync does not."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
